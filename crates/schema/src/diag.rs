//! Diagnostics: what the compiler says, and the registry of everything that it can say.
//!
//! A message is one lower-case sentence with the author's text in backticks; `help` says what to do next.

mod emit;
mod pages;

pub use emit::{File, Lines, Position, github, json, sarif};
pub use pages::explain;
use serde::{Serialize, Serializer};

/// A range of octets in one of the compiled files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Index into the list of files that were given to the compiler.
    pub file: u32,
    /// First octet.
    pub start: u32,
    /// One past the last octet.
    pub end: u32,
}

impl Span {
    /// The smallest span that covers both; they are of the same file.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The empty span at the end of this one.
    #[must_use]
    pub fn after(self) -> Self {
        Self { start: self.end, ..self }
    }

    /// The empty span at the start of this one.
    #[must_use]
    pub fn before(self) -> Self {
        Self { end: self.start, ..self }
    }

    /// Its first octet, for what is too long to underline. Tokens start with ASCII.
    #[must_use]
    pub fn first(self) -> Self {
        Self { end: self.end.min(self.start.saturating_add(1)), ..self }
    }

    /// The text that it covers; empty when `text` is not the file that it was made for.
    pub fn slice(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or("")
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The schema means something, but probably not what its author thinks.
    Warning,
    /// There is no schema.
    Error,
}

impl Severity {
    /// `error` or `warning`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A span with a few words about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// What to underline.
    pub span: Span,
    /// What to write under it; may be empty.
    pub text: String,
}

/// A change that mends the text: edits that do not overlap, in source order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What the change does, as an imperative sentence.
    pub title: String,
    /// The edits.
    pub edits: Vec<Edit>,
}

/// One replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// What to replace; empty to insert.
    pub span: Span,
    /// The new text.
    pub text: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which entry of the registry it is.
    pub code: Code,
    /// The registry's severity.
    pub severity: Severity,
    /// One lower-case sentence without a full stop, the author's text in backticks.
    pub message: String,
    /// The place that it is about.
    pub primary: Label,
    /// Further places that explain it.
    pub labels: Vec<Label>,
    /// What to do next.
    pub help: Option<String>,
    /// An edit that does it, where one is certain to be right.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    /// A diagnostic with the severity that the registry gives to `code`.
    pub fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.info().severity,
            message: message.into(),
            primary: Label { span, text: String::new() },
            labels: Vec::new(),
            help: None,
            fix: None,
        }
    }

    /// Writes `text` under the primary span.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.primary.text = text.into();
        self
    }

    /// Adds a further place.
    #[must_use]
    pub fn with(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Sets the help line.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Adds an edit to the fix; the first title stays.
    #[must_use]
    pub fn fix(mut self, title: impl Into<String>, span: Span, text: impl Into<String>) -> Self {
        let edit = Edit { span, text: text.into() };
        match &mut self.fix {
            Some(fix) => fix.edits.push(edit),
            none => *none = Some(Fix { title: title.into(), edits: vec![edit] }),
        }
        self
    }

    /// Whether it keeps the schema from being compiled.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// What the registry knows of a [`Code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// `CST0001`.
    pub id: &'static str,
    /// Severity of every diagnostic with this code.
    pub severity: Severity,
    /// One sentence about the whole class, for lists.
    pub summary: &'static str,
}

/// Declares the registry: one line per code, in the order of the numbers.
macro_rules! registry {
    ($($id:ident $name:ident $severity:ident $summary:literal)*) => {
        /// Everything that the compiler can say.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $summary] $name,)*
        }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its entry in the registry.
            pub fn info(self) -> CodeInfo {
                match self {
                    $(Self::$name => CodeInfo {
                        code: self,
                        id: stringify!($id),
                        severity: Severity::$severity,
                        summary: $summary,
                    },)*
                }
            }
        }
    };
}

// CST00xx: text and syntax. CST01xx and up: meaning. A number is never used for something else.
registry! {
    CST0001 UnexpectedCharacter Error "a character that no token starts with"
    CST0002 UnterminatedString Error "a string without its closing quote"
    CST0003 BadEscape Error "an unknown or malformed escape in a string"
    CST0004 BadNumber Error "a number in a form that the language does not have"
    CST0005 ControlCharacter Error "a control character in the text"
    CST0006 FileTooLarge Error "a file beyond the size limit"
    CST0007 StrayDoc Warning "a doc comment that documents nothing"
    CST0010 UnknownBlock Error "a word that opens no block"
    CST0011 UnexpectedToken Error "something else was expected here"
    CST0012 UnclosedBracket Error "a bracket without its partner"
    CST0013 MissingType Error "a field without a type"
    CST0014 MisplacedAttribute Error "an attribute where none can stand"
    CST0015 BadModifier Error "a combination of `?` and `[]` that the language does not have"
    CST0020 ChainedComparison Error "comparisons in a row"
    CST0021 ExpressionTooDeep Error "an expression nested beyond the limit"
    CST0022 ExpressionTooLarge Error "an expression with more parts than the limit"
    CST0023 ForeignOperator Error "an operator of another language"
    CST0100 DuplicateName Error "two declarations of one name"
    CST0101 DuplicateMember Error "two members of one name"
    CST0102 DuplicateBlock Error "a second block where one is allowed"
    CST0103 ReservedName Error "a name that the language, the API or a database keeps for itself"
    CST0104 EmptyBlock Error "a block without members that needs some"
    CST0105 UnknownSetting Error "a setting that a datasource does not have"
    CST0106 MissingSetting Error "a datasource without its provider"
    CST0110 UnknownType Error "a type that is not declared"
    CST0111 BadTypeArguments Error "arguments that the type does not take"
    CST0112 TypeNotHere Error "a type that cannot stand here"
    CST0113 EndlessType Error "a type that contains itself"
    CST0114 UnknownMixin Error "a mixin that is not declared"
    CST0120 UnknownAttribute Error "an attribute that the language does not have"
    CST0121 AttributeNotHere Error "an attribute on something that it does not fit"
    CST0122 DuplicateAttribute Error "an attribute that is written twice"
    CST0123 ConflictingAttributes Error "attributes that contradict or repeat one another"
    CST0124 NotSupportedYet Error "a word of the language that nothing enforces yet"
    CST0125 UnknownArgument Error "an argument that the attribute does not take"
    CST0126 MissingArgument Error "an attribute without an argument that it needs"
    CST0127 BadArgument Error "an argument of the wrong kind"
    CST0130 BadDefault Error "a default that the field cannot have"
    CST0131 EmptyRange Error "bounds that no value meets"
    CST0132 BadRegex Error "a regular expression that does not compile"
    CST0133 DbEnforceAlone Error "`@db_enforce` without a validator that a database can enforce"
    CST0134 ImpossibleCreate Error "a required field that no create can fill"
    CST0140 NoKey Error "a model without a primary key"
    CST0141 DuplicateKey Error "a model with two primary keys"
    CST0142 BadKeyField Error "a field that cannot be part of a key"
    CST0143 BadDatabaseName Error "a name that the databases do not take"
    CST0144 DuplicateDatabaseName Error "two things with one name in the database or the API"
    CST0145 BadDeletedAt Error "a `deletedAt` that `@@soft_delete` cannot use"
    CST0150 BadRelation Error "a relation whose parts do not fit"
    CST0151 BadReference Error "a relation to fields that do not identify a row"
    CST0152 BadReferentialAction Error "a referential action that the model cannot carry out"
    CST0153 NoInverse Error "a relation without its inverse end"
    CST0154 NoOwner Error "a relation without its foreign key"
    CST0155 AmbiguousRelation Error "relations between the same models that nothing tells apart"
    CST0156 ManyToMany Error "a relation with lists at both ends"
    CST0160 UnknownName Error "a name that nothing has"
    CST0161 UnknownVariant Error "a value that the enum does not have"
    CST0162 AmbiguousName Error "a name that is a field and an enum's value"
    CST0163 UnknownFunction Error "a function that the language does not have"
    CST0164 WrongArguments Error "a function with arguments that it does not take"
    CST0165 RelationAsValue Error "a relation where a value is expected"
    CST0166 NotARelation Error "a dot after something that has no members"
    CST0167 TypeMismatch Error "types that do not go together"
    CST0168 BadLiteral Error "a literal that its type does not have"
    CST0169 NullOperand Error "`null` where a value is expected"
    CST0170 NotACondition Error "a value where a condition is expected"
    CST0171 NotInStored Error "an expression that the database cannot keep"
    CST0172 UpdateOnly Error "old and new values outside of an update rule"
    CST0173 NoAuthBlock Error "a question to the caller without an `auth` block"
    CST0174 NoRoles Error "`hasRole` without `roles String[]`"
    CST0175 InexactArithmetic Error "arithmetic that SQLite cannot do exactly"
    CST0180 UnknownAction Error "an action that rules do not have"
    CST0181 RuleWithoutEffect Error "a rule over an action that the model cannot have"
    CST0182 BadCheckName Error "a name that a check cannot have"
    CST0190 NoAllow Warning "something that nobody can use"
    CST0191 IdleDeny Warning "a deny that changes nothing"
    CST0192 CheckMayBeUnknown Warning "a check that a null passes"
    CST0193 Unused Warning "a declaration that nothing refers to"
    CST0194 DenyOfNull Warning "a deny that a null lets fire"
    CST0195 PersonalAuditKey Warning "a personal key in the audit trail or in events"
    CST0196 BlindAuditRule Warning "a rule over what the audit trail does not hold"
}

impl Code {
    /// `CST0001`.
    pub fn id(self) -> &'static str {
        self.info().id
    }

    /// The code with that id, in any case.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.id().eq_ignore_ascii_case(id))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}
