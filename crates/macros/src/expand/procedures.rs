//! The trait of the procedures' bodies, and how a call gets to its body.

use cratestack_schema::ir::{Effect, Expr, Field, FieldType, ModelId, Procedure};
use cratestack_schema::value::Value;
use proc_macro2::TokenStream;
use quote::quote;

use super::{Face, doc, is_big, value_type};
use crate::names::{Scope, ident, snake};

/// The trait, and the way to it.
pub(super) fn procedures(schema: &Face<'_>) -> Result<TokenStream, String> {
    let mut names = Scope::default();
    for of in &schema.procedures {
        names.take(&snake(&of.name), &format!("the procedure `{}`", of.name), "rename one of them")?;
        let mut params = Scope::with(&["self", "tx", "caller"]);
        for param in &of.params {
            let what = format!("the parameter `{}` of `{}`", param.name, of.name);
            params.take(&snake(&param.name), &what, "rename it")?;
        }
    }
    let methods = schema.procedures.iter().map(|of| {
        let signature = signature(schema, of);
        let docs = doc(of.doc.as_deref(), &format!("The body of the procedure `{}`.", of.name));
        quote!(#docs #signature;)
    });
    let arms = schema.procedures.iter().map(|of| arm(schema, of));
    let none = schema.procedures.is_empty().then(|| quote!(impl Procedures for ::cratestack::typed::NoProcedures {}));
    let message = format!("`{{Self}}` has no bodies for the procedures of the schema `{}`", schema.name);
    Ok(quote! {
        #[diagnostic::on_unimplemented(message = #message, label = "without bodies", note = "implement the trait `Procedures` for it")]
        /// The bodies of the procedures. Each runs in a transaction, which is committed when it returns `Ok`, and rolled back
        /// when it returns `Err`; where other transactions got in the way it runs again from its beginning.
        pub trait Procedures: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#methods)*
        }
        #none
        impl<ProcedureBodies: Procedures> ::cratestack::typed::Implements<ProcedureBodies> for Db {
            fn into_engine(self) -> ::cratestack::typed::Engine {
                self.0
            }
            #[allow(unused_mut, unused_variables)]
            fn call<'t>(
                bodies: &'t ProcedureBodies,
                mut call: ::cratestack::typed::Call<'t>,
            ) -> ::cratestack::typed::BoxFuture<
                't,
                ::core::result::Result<::cratestack::typed::Json, ::cratestack::typed::Error>,
            > {
                match call.name() {
                    #(#arms)*
                    _ => call.missing(),
                }
            }
        }
    })
}

fn signature(schema: &Face<'_>, of: &Procedure) -> TokenStream {
    let (name, returns) = (ident(&snake(&of.name)), returns(schema, of));
    let tx = if of.mutation { quote!(Tx) } else { quote!(ReadTx) };
    let caller = schema.auth.as_ref().map(|auth| {
        let principal = ident(&auth.name);
        if lets_anonymous(of) {
            quote!(caller: ::core::option::Option<&#principal>,)
        } else {
            quote!(caller: &#principal,)
        }
    });
    let params = of.params.iter().map(|param| {
        let (name, ty) = (ident(&snake(&param.name)), super::field_type(schema, param));
        quote!(#name: #ty)
    });
    quote! {
        fn #name(
            &self,
            tx: &mut #tx<'_>,
            #caller
            #(#params),*
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<#returns, ::cratestack::typed::Error>,
        > + ::core::marker::Send
    }
}

fn arm(schema: &Face<'_>, of: &Procedure) -> TokenStream {
    let (text, name) = (&of.name, ident(&snake(&of.name)));
    let (fetched, caller) = match &schema.auth {
        None => (TokenStream::new(), TokenStream::new()),
        Some(auth) => {
            let principal = ident(&auth.name);
            if lets_anonymous(of) {
                (quote!(let caller = call.maybe_caller::<#principal>()?;), quote!(caller.as_ref(),))
            } else {
                (quote!(let caller = call.caller::<#principal>()?;), quote!(&caller,))
            }
        }
    };
    let arguments: Vec<_> = of.params.iter().map(|_| quote!(call.argument()?)).collect();
    quote! {
        #text => ::std::boxed::Box::pin(async move {
            let mut tx = call.tx();
            #fetched
            let answer = bodies.#name(&mut tx, #caller #(#arguments),*).await?;
            call.answer(&answer)
        }),
    }
}

fn returns(schema: &Face<'_>, of: &Procedure) -> TokenStream {
    let one = value_type(schema, of.returns.ty, &TokenStream::new());
    match (of.returns.list, of.returns.optional) {
        (true, _) => quote!(::std::vec::Vec<#one>),
        (false, true) => quote!(::core::option::Option<#one>),
        (false, false) => one,
    }
}

/// The models that procedures answer with, each once.
fn answered(schema: &Face<'_>) -> Vec<ModelId> {
    let mut models: Vec<ModelId> = Vec::new();
    for of in &schema.procedures {
        if let FieldType::Model(id) = of.returns.ty
            && !models.contains(&id)
        {
            models.push(id);
        }
    }
    models
}

/// What makes rows of these models into answers.
pub(super) fn answers(schema: &Face<'_>) -> TokenStream {
    let models = answered(schema).into_iter().map(|id| {
        let model = schema.model(id);
        let name = ident(&model.name);
        let fields: Vec<&Field> = model.fields.iter().filter(|field| !field.server_only).collect();
        let writes = fields.iter().map(|field| {
            let (name, member) = (&field.name, ident(&snake(&field.name)));
            let big = is_big(field).then(|| quote!(out.big(#name);));
            quote!(out.put(#name, &self.#member); #big)
        });
        quote! {
            impl ::cratestack::typed::Value for #name {
                fn encode(&self) -> ::core::result::Result<::cratestack::typed::Json, ::cratestack::typed::ValueError> {
                    let mut out = ::cratestack::typed::Writer::default();
                    #(#writes)*
                    out.nested()
                }
                fn decode(
                    json: ::cratestack::typed::Json,
                ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
                    <Self as ::cratestack::typed::Model>::read(&mut ::cratestack::typed::Reader::new(json)?)
                }
            }
        }
    });
    models.collect()
}

/// What a condition comes to for a caller without credentials.
#[derive(Clone, Copy, PartialEq)]
enum Truth {
    True,
    False,
    /// Unknown in the language's three-valued logic.
    Unknown,
    /// It depends on the time.
    Open,
}

/// Whether the rules may let a caller in who has no credentials.
fn lets_anonymous(of: &Procedure) -> bool {
    let truths =
        |effect: Effect| of.rules.iter().filter(move |rule| rule.effect == effect).map(|rule| of_anonymous(&rule.expr));
    let allowed = truths(Effect::Allow).any(|truth| matches!(truth, Truth::True | Truth::Open));
    allowed && truths(Effect::Deny).all(|truth| matches!(truth, Truth::False | Truth::Open))
}

fn of_anonymous(expr: &Expr) -> Truth {
    match expr {
        Expr::Const(_, Value::Bool(true)) | Expr::Anonymous => Truth::True,
        Expr::Const(_, Value::Bool(false)) | Expr::HasRole(_) => Truth::False,
        Expr::Const(_, Value::Null) | Expr::Auth(_) => Truth::Unknown,
        Expr::IsNull(x) if claimed(x) => Truth::True,
        Expr::Not(x) => match of_anonymous(x) {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            truth => truth,
        },
        Expr::And(list) => fold(list, Truth::False, Truth::True),
        Expr::Or(list) => fold(list, Truth::True, Truth::False),
        Expr::In(x, list) if claimed(x) && !list.is_empty() => Truth::Unknown,
        Expr::Compare(_, a, b) | Expr::StringTest(_, a, b) if claimed(a) || claimed(b) => Truth::Unknown,
        _ => Truth::Open,
    }
}

/// `strong` decides; `weak` says nothing.
fn fold(list: &[Expr], strong: Truth, weak: Truth) -> Truth {
    let mut all = weak;
    for truth in list.iter().map(of_anonymous) {
        all = match (all, truth) {
            (all, truth) if all == strong || truth == strong => strong,
            (Truth::Open, _) | (_, Truth::Open) => Truth::Open,
            (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
            _ => weak,
        };
    }
    all
}

/// Whether it is a value of the caller, which one without credentials does not have.
fn claimed(expr: &Expr) -> bool {
    match expr {
        Expr::Auth(_) => true,
        Expr::Neg(x) | Expr::Length(x) => claimed(x),
        Expr::Arith(_, a, b) => claimed(a) || claimed(b),
        _ => false,
    }
}
