//! What is sent: create inputs, patches, principals; and value objects, which go both ways.

use cratestack_schema::ir::{Auth, Field, FieldType, Model, TypeDef, TypeId, Writable};
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use super::{Face, check_fields, debug, doc, element_type, field_doc, field_type, is_big, recursive};
use crate::names::{ident, snake};

/// The string of digits that a `BigInt` is in JSON.
fn big(field: &Field) -> Option<TokenStream> {
    let name = &field.name;
    is_big(field).then(|| quote!(out.big(#name);))
}

/// A struct with public fields.
fn record(docs: &TokenStream, derives: &TokenStream, name: &Ident, fields: &[(&Field, TokenStream)]) -> TokenStream {
    let only: Vec<&Field> = fields.iter().map(|(field, _)| *field).collect();
    let (derived, written) = debug(name, &only);
    let members = fields.iter().map(|(field, ty)| {
        let (docs, ident) = (field_doc(field), ident(&snake(&field.name)));
        quote!(#docs pub #ident: #ty,)
    });
    quote! {
        #docs
        #[derive(#derived Clone, PartialEq, #derives)]
        pub struct #name { #(#members)* }
        #written
    }
}

/// `impl Input`, one statement per field.
fn input(name: &Ident, writes: impl Iterator<Item = TokenStream>) -> TokenStream {
    let writes: Vec<_> = writes.collect();
    let out = if writes.is_empty() { quote!(_) } else { quote!(out) };
    quote! {
        impl ::cratestack::typed::Input for #name {
            fn write(&self, #out: &mut ::cratestack::typed::Writer) {
                #(#writes)*
            }
        }
    }
}

/// `NewAccount`.
pub(super) fn new(schema: &Face<'_>, model: &Model) -> TokenStream {
    let name = format_ident!("New{}", model.name);
    let fields: Vec<(&Field, TokenStream)> = model
        .fields
        .iter()
        .filter(|field| field.writable() != Writable::Never)
        .map(|field| {
            let ty = field_type(schema, field);
            (field, if field.default.is_some() { quote!(::core::option::Option<#ty>) } else { ty })
        })
        .collect();
    let optional = |field: &Field| field.optional || field.list || field.default.is_some();
    let derives = if fields.iter().all(|(field, _)| optional(field)) { quote!(Default) } else { TokenStream::new() };
    let docs =
        doc(None, &format!("A new row of [`{0}`].\n\nWhat is `None` gets its default, or no value.", model.name));
    let writes = fields.iter().map(|(field, _)| {
        let (name, member, big) = (&field.name, ident(&snake(&field.name)), big(field));
        if field.default.is_some() {
            quote!(out.given(#name, self.#member.as_ref()); #big)
        } else {
            quote!(out.put(#name, &self.#member); #big)
        }
    });
    let (record, input) = (record(&docs, &derives, &name, &fields), input(&name, writes));
    quote!(#record #input)
}

/// `AccountPatch`.
pub(super) fn patch(schema: &Face<'_>, model: &Model) -> TokenStream {
    let name = format_ident!("{}Patch", model.name);
    let fields: Vec<(&Field, TokenStream)> = model
        .fields
        .iter()
        .filter(|field| field.writable() == Writable::Always)
        .map(|field| {
            let ty = field_type(schema, field);
            (field, quote!(::cratestack::typed::Change<#ty>))
        })
        .collect();
    let docs = doc(None, &format!("A change of a row of [`{0}`]; the default keeps everything.", model.name));
    let writes = fields.iter().map(|(field, _)| {
        let (name, member, big) = (&field.name, ident(&snake(&field.name)), big(field));
        quote!(out.change(#name, &self.#member); #big)
    });
    let (record, input) = (record(&docs, &quote!(Default), &name, &fields), input(&name, writes));
    quote!(#record #input)
}

/// The caller.
pub(super) fn principal(schema: &Face<'_>, auth: &Auth) -> Result<TokenStream, String> {
    check_fields(&auth.name, auth.fields.iter().map(|field| field.name.as_str()))?;
    let name = ident(&auth.name);
    let fields: Vec<_> = auth.fields.iter().map(|field| (field, field_type(schema, field))).collect();
    let docs = doc(None, "The authenticated caller, as the `auth` block declares it.");
    let writes = auth.fields.iter().map(|field| {
        let (name, member, big) = (&field.name, ident(&snake(&field.name)), big(field));
        quote!(out.put(#name, &self.#member); #big)
    });
    let reads = auth.fields.iter().map(|field| {
        let (name, member) = (&field.name, ident(&snake(&field.name)));
        quote!(#member: row.take(#name)?,)
    });
    let (record, input) = (record(&docs, &TokenStream::new(), &name, &fields), input(&name, writes));
    Ok(quote! {
        #record
        #input
        impl ::cratestack::typed::Claims for #name {
            fn read(
                row: &mut ::cratestack::typed::Reader,
            ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
                ::core::result::Result::Ok(Self { #(#reads)* })
            }
        }
    })
}

/// A `type`.
pub(super) fn value_object(schema: &Face<'_>, of: &TypeDef) -> Result<TokenStream, String> {
    check_fields(&of.name, of.fields.iter().map(|field| field.name.as_str()))?;
    let name = ident(&of.name);
    let owner = schema.types.iter().position(|other| other.name == of.name).and_then(|at| u32::try_from(at).ok());
    let fields: Vec<_> = of.fields.iter().map(|field| (field, boxed(schema, owner.map(TypeId), field))).collect();
    let docs = doc(of.doc.as_deref(), &format!("The type `{}`.", of.name));
    let writes = of.fields.iter().map(|field| {
        let (name, member, big) = (&field.name, ident(&snake(&field.name)), big(field));
        quote!(out.put(#name, &self.#member); #big)
    });
    let reads = of.fields.iter().map(|field| {
        let (name, member) = (&field.name, ident(&snake(&field.name)));
        // An argument may leave it out.
        if field.optional { quote!(#member: row.given(#name)?,) } else { quote!(#member: row.take(#name)?,) }
    });
    let record = record(&docs, &TokenStream::new(), &name, &fields);
    Ok(quote! {
        #record
        impl ::cratestack::typed::Value for #name {
            fn encode(&self) -> ::core::result::Result<::cratestack::typed::Json, ::cratestack::typed::ValueError> {
                let mut out = ::cratestack::typed::Writer::default();
                #(#writes)*
                out.nested()
            }
            fn decode(
                json: ::cratestack::typed::Json,
            ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
                let mut row = ::cratestack::typed::Reader::new(json)?;
                ::core::result::Result::Ok(Self { #(#reads)* })
            }
        }
    })
}

/// The type of a member of a value object; a box where the object can hold itself.
fn boxed(schema: &Face<'_>, owner: Option<TypeId>, field: &Field) -> TokenStream {
    match (field.ty, owner) {
        (FieldType::Type(id), Some(owner)) if !field.list && recursive(schema, owner, id) => {
            let element = element_type(schema, field, &TokenStream::new());
            if field.optional {
                quote!(::core::option::Option<::std::boxed::Box<#element>>)
            } else {
                quote!(::std::boxed::Box<#element>)
            }
        }
        _ => field_type(schema, field),
    }
}
