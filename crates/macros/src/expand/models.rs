//! A model: its struct, and what can be done with its rows.

use cratestack_schema::ir::{Field, Model, ModelId};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use super::{Face, check_fields, debug, doc, field_doc, field_type, fields, inputs};
use crate::names::{ident, snake};

pub(super) fn model(schema: &Face<'_>, id: ModelId, model: &Model) -> Result<TokenStream, String> {
    let visible: Vec<&Field> = model.fields.iter().filter(|field| !field.server_only).collect();
    let relations = model.relations.iter().map(|relation| relation.name.as_str());
    check_fields(&model.name, visible.iter().map(|field| field.name.as_str()).chain(relations))?;

    let row = row(schema, model, &visible);
    let implementation = implementation(schema, id, model, &visible);
    let new = inputs::new(schema, model);
    let patch = (!model.append_only).then(|| inputs::patch(schema, model));
    let abilities = abilities(model);
    let handles = fields::module(schema, model, &visible);
    Ok(quote!(#row #implementation #new #patch #abilities #handles))
}

fn row(schema: &Face<'_>, model: &Model, visible: &[&Field]) -> TokenStream {
    let name = ident(&model.name);
    let docs = doc(model.doc.as_deref(), &format!("A row of the model `{}`.", model.name));
    let (derived, debug) = debug(&name, visible);
    let members = visible.iter().map(|field| {
        let (docs, member, ty) = (field_doc(field), ident(&snake(&field.name)), field_type(schema, field));
        quote!(#docs pub #member: #ty,)
    });
    quote! {
        #docs
        #[derive(#derived Clone, PartialEq)]
        pub struct #name { #(#members)* }
        #debug
    }
}

fn implementation(schema: &Face<'_>, id: ModelId, model: &Model, visible: &[&Field]) -> TokenStream {
    let (name, text, accessor, id) = (ident(&model.name), &model.name, snake(&model.path), id.0);
    let mut key = model.key.iter().map(|id| field_type(schema, model.field(*id)));
    let key = match (key.next(), key.len()) {
        (Some(only), 0) => only,
        (first, _) => quote!((#first, #(#key),*)),
    };
    let reads = visible.iter().map(|field| {
        let (name, member) = (&field.name, ident(&snake(&field.name)));
        // The engine's own `deletedAt` is on tombstones alone.
        if field.synthetic { quote!(#member: row.maybe(#name)?,) } else { quote!(#member: row.take(#name)?,) }
    });
    quote! {
        impl ::cratestack::typed::Model for #name {
            type Key = #key;
            const ID: u32 = #id;
            const NAME: &'static str = #text;
            const ACCESSOR: &'static str = #accessor;
            fn read(
                row: &mut ::cratestack::typed::Reader,
            ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
                ::core::result::Result::Ok(Self { #(#reads)* })
            }
        }
    }
}

/// What the attributes of the model let be done.
fn abilities(model: &Model) -> TokenStream {
    let (name, new, patch) =
        (ident(&model.name), format_ident!("New{}", model.name), format_ident!("{}Patch", model.name));
    let changeable =
        (!model.append_only).then(|| quote!(impl ::cratestack::typed::Changeable for #name { type Patch = #patch; }));
    let versioned = model.version.map(|_| quote!(impl ::cratestack::typed::Versioned for #name {}));
    let soft = model.soft_delete.map(|_| quote!(impl ::cratestack::typed::SoftDelete for #name {}));
    quote! {
        impl ::cratestack::typed::Creatable for #name { type New = #new; }
        #changeable
        #versioned
        #soft
    }
}
