//! The module of a model: handles of its fields and relations, for filters, orders and includes.
//!
//! Each handle is there twice: as a function, which starts at the model, and as a method of `Related`, which goes on from a
//! relation (`account::customer().country()`).

use cratestack_schema::ir::{Field, Model, RelationKind};
use proc_macro2::TokenStream;
use quote::quote;

use super::{Face, doc, element_type, field_doc};
use crate::names::{ident, snake};

/// A handle: its documentation, its names, its type behind `R`, and how it is made from a path.
struct Handle {
    docs: TokenStream,
    name: String,
    member: String,
    /// With the model that paths start at.
    ty: fn(&TokenStream, &TokenStream) -> TokenStream,
    of: TokenStream,
    make: TokenStream,
}

pub(super) fn module(schema: &Face<'_>, model: &Model, visible: &[&Field]) -> TokenStream {
    let up = quote!(super::);
    let fields = visible.iter().map(|field| Handle {
        docs: field_doc(field),
        name: snake(&field.name),
        member: field.name.clone(),
        ty: |root, of| quote!(::cratestack::typed::Field<#root, #of>),
        of: element_type(schema, field, &up),
        make: quote!(::cratestack::typed::Field::new),
    });
    let relations = model.relations.iter().map(|relation| {
        let target = schema.model(relation.target);
        let docs = doc(relation.doc.as_deref(), &format!("The relation `{}`.", relation.name));
        let (name, member) = (snake(&relation.name), relation.name.clone());
        if relation.kind == RelationKind::Many {
            let target = ident(&target.name);
            Handle {
                docs,
                name,
                member,
                ty: |root, of| quote!(::cratestack::typed::Many<#root, super::#of>),
                of: quote!(#target),
                make: quote!(::cratestack::typed::Many::new),
            }
        } else {
            let module = ident(&snake(&target.name));
            Handle {
                docs,
                name,
                member,
                ty: |root, of| quote!(super::#of::Related<#root>),
                of: quote!(#module),
                make: quote!(super::#module::Related),
            }
        }
    });
    let handles: Vec<Handle> = fields.chain(relations).collect();
    written(model, &handles)
}

fn written(model: &Model, handles: &[Handle]) -> TokenStream {
    let (name, module) = (ident(&model.name), ident(&snake(&model.name)));
    let docs = format!(" Fields and relations of [`{0}`](super::{0}), for filters, orders and includes.", model.name);
    let related = format!(" A row of [`{0}`](super::{0}) that is reached from `R` over relations.", model.name);
    let functions = handles.iter().map(|Handle { docs, name: handle, member, ty, of, make }| {
        let (ident, ty) = (ident(handle), ty(&quote!(super::#name), of));
        quote!(#docs pub fn #ident() -> #ty { #make(::cratestack::typed::Path::new(#member)) })
    });
    let methods = handles.iter().map(|Handle { docs, name: handle, member, ty, of, make }| {
        let (ident, ty) = (ident(handle), ty(&quote!(R), of));
        quote!(#docs pub fn #ident(&self) -> #ty { #make(self.0.then(#member)) })
    });
    quote! {
        pub mod #module {
            #![doc = #docs]
            #[doc = #related]
            #[derive(Debug)]
            pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
            impl<R> ::cratestack::typed::Include<R> for Related<R> {
                type Output = ::core::option::Option<super::#name>;
                fn path(self) -> ::cratestack::typed::Path<R> {
                    self.0
                }
            }
            #(#functions)*
            impl<R> Related<R> { #(#methods)* }
        }
    }
}
