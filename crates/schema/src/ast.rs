//! The syntax tree of a `.cstack` file: what was written, before any name is looked up.
//!
//! Everything that a diagnostic may underline carries a [`Span`]. Nodes compare by content *and* position;
//! comments other than `///` are not part of the tree (the formatter works on tokens).

use crate::diag::Span;

/// One parsed file. Blocks that could not be parsed at all are missing; a diagnostic tells why.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tree {
    /// Top-level declarations, in source order.
    pub blocks: Vec<Block>,
}

/// A name as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ident {
    /// The name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// Consecutive `///` lines: text without the slashes and one leading space, joined with newlines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doc {
    /// The text.
    pub text: String,
    /// From the first `///` to the end of the last line.
    pub span: Span,
}

/// A top-level declaration.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// `datasource db { .. }`
    Datasource(Datasource),
    /// `enum Role { .. }`
    Enum(Enum),
    /// `auth`, `mixin`, `type` or `model`.
    Record(Record),
    /// `procedure` or `mutation procedure`.
    Procedure(Procedure),
}

impl Block {
    /// The declared name.
    pub fn name(&self) -> &Ident {
        match self {
            Self::Datasource(block) => &block.name,
            Self::Enum(block) => &block.name,
            Self::Record(block) => &block.name,
            Self::Procedure(block) => &block.name,
        }
    }

    /// The whole declaration, from keyword to closing brace, documentation excluded.
    pub fn span(&self) -> Span {
        match self {
            Self::Datasource(block) => block.span,
            Self::Enum(block) => block.span,
            Self::Record(block) => block.span,
            Self::Procedure(block) => block.span,
        }
    }
}

/// `datasource name { key = value .. }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Datasource {
    /// `///` text.
    pub doc: Option<Doc>,
    /// The block's name.
    pub name: Ident,
    /// Assignments, in source order, duplicates included.
    pub settings: Vec<Setting>,
    /// The whole block.
    pub span: Span,
}

/// `key = value`; the value is a string or `env("NAME")`, which the resolver checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key.
    pub name: Ident,
    /// The value.
    pub value: Expr,
    /// Key to value.
    pub span: Span,
}

/// `enum Name { variant .. }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Enum {
    /// `///` text.
    pub doc: Option<Doc>,
    /// The name.
    pub name: Ident,
    /// Variants, in source order, duplicates included.
    pub variants: Vec<Variant>,
    /// `@@` attributes. None is known today; the resolver says so.
    pub attributes: Vec<Attribute>,
    /// The whole block.
    pub span: Span,
}

/// One variant of an enum.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// `///` text.
    pub doc: Option<Doc>,
    /// The name.
    pub name: Ident,
    /// `@` attributes.
    pub attributes: Vec<Attribute>,
    /// Name to last attribute.
    pub span: Span,
}

/// Which keyword opened a [`Record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// `auth`
    Auth,
    /// `mixin`
    Mixin,
    /// `type`
    Type,
    /// `model`
    Model,
}

impl RecordKind {
    /// The keyword.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Mixin => "mixin",
            Self::Type => "type",
            Self::Model => "model",
        }
    }
}

/// A block of fields and attributes: `auth`, `mixin`, `type` or `model`.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `///` text.
    pub doc: Option<Doc>,
    /// The keyword.
    pub kind: RecordKind,
    /// The name.
    pub name: Ident,
    /// Members, in source order, duplicates included.
    pub members: Vec<Member>,
    /// The whole block.
    pub span: Span,
}

/// A member of a [`Record`]. The parser accepts every kind in every record; the resolver says what does not
/// belong there.
#[derive(Debug, Clone, PartialEq)]
pub enum Member {
    /// `name Type @attr ..`
    Field(Field),
    /// `@use(Mixin)`: an attribute with one `@` that stands alone on its line.
    Use(Attribute),
    /// `@@attr(..)`
    Attribute(Attribute),
}

impl Member {
    /// The whole member.
    pub fn span(&self) -> Span {
        match self {
            Self::Field(field) => field.span,
            Self::Use(attribute) | Self::Attribute(attribute) => attribute.span,
        }
    }
}

/// A field, or a parameter of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// `///` text.
    pub doc: Option<Doc>,
    /// The name.
    pub name: Ident,
    /// The type.
    pub ty: Type,
    /// `@` attributes, in source order, duplicates included.
    pub attributes: Vec<Attribute>,
    /// Name to last attribute.
    pub span: Span,
}

/// `Name`, `Name(arg, ..)`, with `?` or `[]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    /// The name.
    pub name: Ident,
    /// `(18, 4)` of `Decimal(18, 4)`; empty when there are no parentheses.
    pub args: Vec<Argument>,
    /// `?` or `[]`.
    pub modifier: Modifier,
    /// Name to modifier.
    pub span: Span,
}

/// What follows the name of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Modifier {
    /// Nothing: exactly one value.
    One,
    /// `?`
    Optional,
    /// `[]`
    List,
}

/// `@name(args)` or `@@name(args)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// The name without `@`; its span covers the `@` or `@@` too.
    pub name: Ident,
    /// The parenthesis with its arguments, if it was written (`@@audit` and `@@audit()` differ here).
    pub args: Option<Arguments>,
    /// `@` to closing parenthesis.
    pub span: Span,
}

impl Attribute {
    /// The arguments; empty when no parenthesis was written.
    pub fn arguments(&self) -> &[Argument] {
        self.args.as_ref().map_or(&[], |args| args.items.as_slice())
    }

    /// The arguments without a name, in order.
    pub fn positional(&self) -> impl Iterator<Item = &Argument> {
        self.arguments().iter().filter(|argument| argument.name.is_none())
    }

    /// The first argument of that name.
    pub fn named(&self, name: &str) -> Option<&Argument> {
        self.arguments().iter().find(|argument| argument.name.as_ref().is_some_and(|ident| ident.name == name))
    }
}

/// A parenthesis with arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments {
    /// In source order, duplicates included.
    pub items: Vec<Argument>,
    /// From `(` to `)`.
    pub span: Span,
}

/// `value` or `name: value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    /// The name, if written.
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
    /// Name to value.
    pub span: Span,
}

/// `[mutation] procedure name(params): Type` and the attributes that follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Procedure {
    /// `///` text.
    pub doc: Option<Doc>,
    /// `mutation` was written.
    pub mutation: bool,
    /// The name.
    pub name: Ident,
    /// `name: Type` parameters, in source order, duplicates included.
    pub params: Vec<Field>,
    /// The answer.
    pub returns: Type,
    /// `@` attributes, in source order, duplicates included.
    pub attributes: Vec<Attribute>,
    /// Keyword to last attribute.
    pub span: Span,
}

/// An expression, an attribute's argument or a setting's value. Its span includes enclosing parentheses.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
}

/// The kinds of [`Expr`]. Height and number of nodes are bounded by the parser's [`crate::parse::Limits`],
/// so that recursion over an expression is safe.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// Digits with an optional fraction and an optional leading `-` (`-1.50`), as written.
    Number(String),
    /// A string, escapes undone.
    String(String),
    /// `a`, `customer.country`, `old.f`, `Status.open`: one name or more.
    Path(Vec<Ident>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `now()`, `changed(f)`, `env("X")`
    Call {
        /// The function.
        name: Ident,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `auth().tenantId`: a name of something that is no plain path.
    Select {
        /// What stands before the dot; never a [`ExprKind::Path`].
        base: Box<Expr>,
        /// The name after it.
        name: Ident,
    },
    /// `entries.some(x > 0)`, `auth().hasRole("x")`, `owner.length()`
    Method {
        /// What stands before the dot.
        base: Box<Expr>,
        /// The method.
        name: Ident,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `!x`, `-x`
    Unary {
        /// The operator.
        op: UnaryOp,
        /// Where the operator stands.
        op_span: Span,
        /// The operand.
        operand: Box<Expr>,
    },
    /// `a && b && c` or `a || b || c`: two operands or more, never a chain of the same operator unless the
    /// author wrote parentheses.
    Logical {
        /// The operator.
        op: LogicalOp,
        /// The operands.
        operands: Vec<Expr>,
    },
    /// A comparison or arithmetic.
    Binary {
        /// The operator.
        op: BinaryOp,
        /// Where the operator stands.
        op_span: Span,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// `x in [..]`, `x not in [..]`, `x in auth().list`
    In {
        /// `not in`
        negated: bool,
        /// Where `in` or `not in` stands.
        op_span: Span,
        /// Left operand.
        value: Box<Expr>,
        /// Right operand: a list, or anything else, which the resolver checks.
        list: Box<Expr>,
    },
}

/// `!` and `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `!`
    Not,
    /// `-`
    Neg,
}

/// `&&` and `||`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogicalOp {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// Comparisons and arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
}
