//! Changes of schema on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use cratestack_schema::ir::*;
use cratestack_schema::value::Value;

use crate::ddl_tests::*;
use crate::migrate::{self, Error, Outcome};

/// Everything that the database's own catalog says, one line per object, sorted.
async fn catalog(base: &mut Base) -> Vec<String> {
    const POSTGRES: &[&str] = &[
        "SELECT table_name, column_name, data_type, udt_name, collation_name, is_nullable, column_default, is_identity, \
         numeric_precision, numeric_scale FROM information_schema.columns WHERE table_schema = current_schema()",
        "SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE connamespace = current_schema()::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
        "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT proname, prosrc, proconfig::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace",
    ];
    const SQLITE: &[&str] =
        &["SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"];
    let mut lines = Vec::new();
    for sql in if base.is_sqlite() { SQLITE } else { POSTGRES } {
        lines.extend(base.rows(sql).await);
    }
    lines.sort();
    lines
}

/// A database of the same kind, with no table in it.
async fn clear(base: &mut Base) {
    if base.is_sqlite() {
        *base = Base::sqlite();
    } else {
        base.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    }
}

async fn change(base: &mut Base, schema: &Schema) -> Result<Outcome, Error> {
    let loses = migrate::plan(&mut base.db(), schema).await.unwrap().loses;
    migrate::apply_diff(&mut base.db(), schema, &loses, &mut |_| {}).await
}

async fn changed(base: &mut Base, schema: &Schema) {
    assert_eq!(change(base, schema).await.unwrap(), Outcome::Done);
    let now = catalog(base).await;
    let mut fresh = Base::beside(base).await;
    fresh.apply(schema).await;
    assert_eq!(now, catalog(&mut fresh).await);
}

// One change at a time.

fn edit(schema: &Schema, edit: impl FnOnce(&mut Schema)) -> Schema {
    let mut schema = schema.clone();
    edit(&mut schema);
    schema
}

fn people() -> Schema {
    schema(vec![unique(
        model("Person", vec![id(), field("name", Scalar::String), optional(field("age", Scalar::Int))]),
        &["name"],
    )])
}

const PEOPLE: &str = "INSERT INTO persons (id, name, age) VALUES (1, 'ann', 30), (2, 'bob', NULL)";

#[tokio::test]
async fn added_things_keep_the_rows() {
    for mut base in Base::both().await {
        base.apply(&people()).await;
        base.run(PEOPLE).await;
        let wider = edit(&people(), |schema| {
            let person = &mut schema.models[0];
            person.fields.extend([
                optional(field("nick", Scalar::String)),
                with(Value::Text("none".to_owned()), field("title", Scalar::String)),
                Field { updated_at: true, ..field("touched", Scalar::DateTime) },
                version(),
            ]);
            *person = soft(person.clone());
            person.indexes.push(Index {
                name: "persons_age_idx".to_owned(),
                fields: vec![FieldId(2)],
                filter: None,
                using: None,
            });
            schema.models.push(model("Pet", vec![id(), field("owner", Scalar::Int)]));
            refer(schema, "Pet", "owner", "Person", ReferentialAction::Cascade);
        });
        changed(&mut base, &wider).await;
        let rows = base.read("SELECT id, name, age, nick, title, version, deleted_at FROM persons ORDER BY id").await;
        assert_eq!(rows, "1|ann|30|-|none|1|- 2|bob|-|-|none|1|-");
        assert_eq!(base.read("SELECT count(*) FROM persons WHERE touched > '2020-01-01T00:00:00.000000Z'").await, "2");
        base.run("INSERT INTO pets (id, owner) VALUES (1, 2)").await;
        assert!(base.attempt("INSERT INTO pets (id, owner) VALUES (2, 7)").await.is_err());
        // And back: what is lost is said, and asked for.
        let plan = migrate::plan(&mut base.db(), &people()).await.unwrap();
        assert_eq!(
            plan.loses,
            [
                "the rows of `Pet` are dropped",
                "the values of `title` in `Person` are dropped",
                "the values of `touched` in `Person` are dropped",
                "the values of `version` in `Person` are dropped",
            ]
        );
        let refused = migrate::apply_diff(&mut base.db(), &people(), &[], &mut |_| {}).await.unwrap_err();
        assert!(matches!(&refused, Error::Loses(loses) if *loses == plan.loses));
        assert_eq!(base.read("SELECT count(*) FROM pets").await, "1");
        changed(&mut base, &people()).await;
        assert_eq!(base.read("SELECT id, name, age FROM persons ORDER BY id").await, "1|ann|30 2|bob|-");
    }
}

#[tokio::test]
async fn renamed_columns_and_tables_keep_their_values() {
    for mut base in Base::both().await {
        base.apply(&people()).await;
        base.run(PEOPLE).await;
        let renamed = edit(&people(), |schema| {
            let person = &mut schema.models[0];
            // The names of the two change places as well.
            person.fields[1] = Field { rename_from: Some("name".to_owned()), ..field("label", Scalar::String) };
            "age".clone_into(&mut person.fields[1].column);
            "name".clone_into(&mut person.fields[2].column);
            "people".clone_into(&mut person.table);
        });
        changed(&mut base, &renamed).await;
        assert_eq!(base.read("SELECT id, age, name FROM people ORDER BY id").await, "1|ann|30 2|bob|-");
        // A rename that was done is no news.
        let plan = migrate::plan(&mut base.db(), &renamed).await.unwrap();
        assert!(plan.steps.is_empty() && plan.loses.is_empty() && plan.refuse.is_empty());
    }
}

#[tokio::test]
async fn tables_that_change_places_keep_their_rows() {
    for mut base in Base::both().await {
        let two = schema(vec![model("A", vec![id()]), model("B", vec![id()])]);
        base.apply(&two).await;
        base.run("INSERT INTO as_ (id) VALUES (1)".replace("as_", "\"as\"").as_str()).await;
        let swapped = edit(&two, |schema| {
            "bs".clone_into(&mut schema.models[0].table);
            "as".clone_into(&mut schema.models[1].table);
        });
        changed(&mut base, &swapped).await;
        assert_eq!(base.read("SELECT id FROM bs").await, "1");
    }
}

#[tokio::test]
async fn what_the_rows_do_not_allow_is_refused_and_changes_nothing() {
    for mut base in Base::both().await {
        base.apply(&people()).await;
        base.run(PEOPLE).await;
        base.run("INSERT INTO persons (id, name) VALUES (3, 'bob ')").await;
        let before = catalog(&mut base).await;
        let cases: Vec<(Schema, &str)> = vec![
            (
                edit(&people(), |schema| schema.models[0].fields.push(field("email", Scalar::String))),
                "`Person` has rows, and nothing says what `email` is in them: give it a literal `@default(..)`, or make \
                 it optional first",
            ),
            (
                edit(&people(), |schema| schema.models[0].fields[2].optional = false),
                "rows of `Person` have no `age`: fill it in before it becomes required",
            ),
            (
                edit(&people(), |schema| schema.models[0] = unique(schema.models[0].clone(), &["age"])),
                "several rows of `Person` have the same `age`",
            ),
            (
                edit(&people(), |schema| {
                    let age = Expr::Field(FieldPath { side: Side::Row, hops: Vec::new(), field: FieldId(2) });
                    let limit = Expr::Const(FieldType::Scalar(Scalar::Int), Value::Int(40));
                    schema.models[0].checks.push(Check {
                        name: "old".to_owned(),
                        constraint: "persons_old_check".to_owned(),
                        expr: Expr::Compare(CompareOp::Ge, Box::new(age), Box::new(limit)),
                        message: "too young".to_owned(),
                    });
                }),
                "rows of `Person` break the check `old`",
            ),
            (
                edit(&people(), |schema| {
                    schema.models.push(model("Team", vec![id()]));
                    refer(schema, "Person", "age", "Team", ReferentialAction::NoAction);
                }),
                "rows of `Person` name rows of `Team`, and there are none",
            ),
        ];
        base.run("UPDATE persons SET age = 30 WHERE id = 3").await;
        for (schema, says) in cases {
            let refused = change(&mut base, &schema).await.expect_err(says).to_string();
            assert!(refused.contains(says), "{refused}");
            assert!(!refused.contains("30"), "{refused}");
            assert_eq!(catalog(&mut base).await, before);
            assert_eq!(base.read("SELECT count(*) FROM persons").await, "3");
        }
        // Nothing is left switched off.
        base.run("DELETE FROM persons WHERE id = 3").await;
    }
}

#[tokio::test]
async fn tombstones_do_not_come_back_to_life_by_an_edit() {
    for mut base in Base::both().await {
        let declared = |soft_delete: bool| {
            let deleted_at = Field { column: "deleted_at".to_owned(), ..field("deletedAt", Scalar::DateTime) };
            let mut model = model("Note", vec![id(), optional(deleted_at), version()]);
            model.soft_delete = soft_delete.then_some(FieldId(1));
            schema(vec![model])
        };
        base.apply(&declared(false)).await;
        base.run(&format!("INSERT INTO notes (id, deleted_at) VALUES (1, '{T1}'), (2, NULL)")).await;
        // Rows that were marked by hand become deletions of their own.
        changed(&mut base, &declared(true)).await;
        assert_eq!(base.read("SELECT id FROM notes WHERE deletion_id IS NOT NULL").await, "1");
        let refused = change(&mut base, &declared(false)).await.unwrap_err().to_string();
        assert!(refused.contains("would come back to life"), "{refused}");
        base.run("DELETE FROM notes WHERE id = 1").await;
        changed(&mut base, &declared(false)).await;
    }
}

#[tokio::test]
async fn types_widen_without_loss_and_enums_follow_their_names() {
    for mut base in Base::both().await {
        let decimal = |precision, scale| Scalar::Decimal(Some(Precision { precision, scale }));
        let types = |amount: Scalar, count: Scalar, key: Scalar, stored: &str| {
            let state = Field { ty: FieldType::Enum(EnumId(0)), ..field("state", Scalar::String) };
            let fields = vec![id(), field("amount", amount), field("count", count), field("ref", key), state];
            let mut schema = schema(vec![model("Thing", fields)]);
            let variant =
                |name: &str, stored: &str| Variant { name: name.to_owned(), stored: stored.to_owned(), doc: None };
            let variants = vec![variant("open", stored), variant("shut", "shut")];
            schema.enums.push(Enum { name: "State".to_owned(), doc: None, variants });
            schema
        };
        base.apply(&types(decimal(10, 2), Scalar::Int, Scalar::Uuid, "open")).await;
        let amount = if base.is_sqlite() { "1234567" } else { "12345.67" };
        base.run(&format!(
            "INSERT INTO things (id, amount, count, ref, state) VALUES (1, {amount}, 7, '{D1}', 'open')"
        ))
        .await;
        changed(&mut base, &types(decimal(18, 4), decimal(18, 6), Scalar::String, "OPEN")).await;
        let row = "SELECT amount, count, ref, state FROM things";
        let wanted = if base.is_sqlite() {
            format!("123456700|7000000|{D1}|OPEN")
        } else {
            format!("12345.6700|7.000000|{D1}|OPEN")
        };
        assert_eq!(base.read(row).await, wanted);
        changed(&mut base, &types(Scalar::Decimal(None), Scalar::Decimal(None), Scalar::String, "open")).await;
        let wanted = if base.is_sqlite() {
            format!("p50051234567|p50017|{D1}|open")
        } else {
            format!("12345.6700|7.000000|{D1}|open")
        };
        assert_eq!(base.read(row).await, wanted);
        // Narrowing gives the values up.
        let narrow = types(decimal(10, 2), Scalar::Int, Scalar::String, "open");
        let plan = migrate::plan(&mut base.db(), &narrow).await.unwrap();
        assert_eq!(plan.loses[0], "the values of `amount` in `Thing` of the old type are dropped");
        assert_eq!(plan.refuse.len(), 2);
    }
}

#[tokio::test]
async fn numbers_that_were_given_are_not_given_again() {
    for mut base in Base::both().await {
        let numbered = |extra: bool| {
            let mut fields =
                vec![Field { default: Some(Default::AutoIncrement), ..id() }, field("name", Scalar::String)];
            fields.extend(extra.then(|| optional(field("extra", Scalar::Int))));
            schema(vec![model("Row", fields)])
        };
        base.apply(&numbered(false)).await;
        base.run("INSERT INTO rows (name) VALUES ('a'), ('b'), ('c')").await;
        base.run("DELETE FROM rows WHERE name <> 'a'").await;
        changed(&mut base, &numbered(true)).await;
        base.run("INSERT INTO rows (name) VALUES ('d')").await;
        assert_eq!(base.read("SELECT id FROM rows ORDER BY id").await, "1 4");
        // A table that is emptied and rebuilt keeps its count as well; one that begins to count begins after its rows.
        base.run("DELETE FROM rows").await;
        changed(&mut base, &numbered(false)).await;
        base.run("INSERT INTO rows (name) VALUES ('e')").await;
        assert_eq!(base.read("SELECT id FROM rows").await, "5");
        let plain = edit(&numbered(false), |schema| schema.models[0].fields[0].default = None);
        changed(&mut base, &plain).await;
        changed(&mut base, &numbered(false)).await;
        base.run("INSERT INTO rows (name) VALUES ('f')").await;
        assert_eq!(base.read("SELECT id FROM rows ORDER BY id").await, "5 6");
    }
}

#[tokio::test]
async fn a_rebuilt_parent_keeps_its_children_and_append_only_rows_can_be_carried_over() {
    for mut base in Base::both().await {
        let mut schema = family(ReferentialAction::Cascade);
        schema.models[3].append_only = true;
        base.apply(&schema).await;
        base.run(FAMILY).await;
        let wider = edit(&schema, |schema| {
            for model in &mut schema.models {
                model.fields.push(with(Value::Int(7), field("extra", Scalar::Int)));
            }
        });
        changed(&mut base, &wider).await;
        assert_eq!(base.read("SELECT id, parent, extra FROM childs ORDER BY id").await, "1|1|7 2|1|7 3|2|7");
        assert_eq!(base.read("SELECT id, extra FROM plains").await, "1|7");
        assert!(base.attempt("DELETE FROM plains").await.is_err());
        base.run(&bury("parents", 1, D1)).await;
        assert_eq!(base.read("SELECT id FROM grands WHERE deleted_at IS NULL").await, "3");
    }
}

#[tokio::test]
async fn a_reset_removes_what_was_made_and_nothing_else() {
    for mut base in Base::both().await {
        migrate::reset(&mut base.db()).await.unwrap();
        base.run("CREATE TABLE invoices (id int)").await;
        assert!(matches!(migrate::reset(&mut base.db()).await, Err(Error::Foreign(_))));
        base.run("DROP TABLE invoices").await;
        base.apply(&bank()).await;
        base.run("CREATE TABLE invoices (id int); INSERT INTO invoices VALUES (1)").await;
        base.run("INSERT INTO customers (id, email) VALUES (1, 'a@b')").await;
        base.run("UPDATE cratestack_meta SET value = '0' WHERE name = 'ddl'").await;
        migrate::reset(&mut base.db()).await.unwrap();
        assert_eq!(base.read("SELECT * FROM invoices").await, "1");
        base.run("DROP TABLE invoices").await;
        assert!(catalog(&mut base).await.is_empty());
        base.apply(&family(ReferentialAction::Cascade)).await;
    }
}

// Any schema to any other.

/// A small generator: the same seed, the same rolls. With a drift, some of them come out differently.
struct Dice {
    seed: u64,
    drift: Option<u64>,
    label: u64,
}

impl Dice {
    /// For one part of the schema, so that a different roll in one leaves the others alone.
    fn of(&self, label: &str) -> Self {
        let label =
            label.bytes().fold(self.label, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        Self { label, ..*self }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.label = self.label.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mix = |seed: u64| {
            let mixed = (self.label ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (mixed ^ (mixed >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33
        };
        match self.drift {
            Some(drift) if mix(drift) % 16 == 0 => mix(drift.wrapping_add(1 << 40)) % sides,
            _ => mix(self.seed) % sides,
        }
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let at = self.roll(from.len() as u64);
        from[usize::try_from(at).unwrap()].clone()
    }
}

fn any_schema(seed: u64, drift: Option<u64>) -> Schema {
    let mut dice = Dice { seed, drift, label: 0 };
    let mut models: Vec<Model> = Vec::new();
    for name in ["One", "Two", "Three", "Four"] {
        let mut dice = dice.of(name);
        if !dice.one_in(5) {
            models.push(any_model(name, &mut dice));
        }
    }
    if models.len() > 1 && dice.one_in(4) {
        let table = std::mem::take(&mut models[0].table);
        models[0].table = std::mem::replace(&mut models[1].table, table);
        for (at, model) in models.iter_mut().enumerate().take(2) {
            model.uniques.iter_mut().enumerate().for_each(|(n, index)| index.name = format!("swapped_{at}_{n}_key"));
        }
    }
    let mut schema = schema(models);
    let variants = ["open", "shut", "lost"].iter().filter(|_| !dice.one_in(4));
    let mut variants: Vec<Variant> =
        variants.map(|name| Variant { name: (*name).to_owned(), stored: (*name).to_owned(), doc: None }).collect();
    let stored = dice.of("ever").pick(&["ever", "EVER", "it's"]).to_owned();
    variants.push(Variant { name: "ever".to_owned(), stored, doc: None });
    schema.enums.push(Enum { name: "State".to_owned(), doc: None, variants });
    for child in 0..schema.models.len() {
        for parent in 0..schema.models.len() {
            let target = schema.models[parent].clone();
            let name = schema.models[child].name.clone();
            let mut dice = dice.of(&format!("{name} to {}", target.name));
            if dice.one_in(3) {
                let column = format!("to_{}", target.name.to_lowercase());
                let key = target.fields[0].scalar().unwrap();
                schema.models[child].fields.push(optional(field(&column, key)));
                let actions = [
                    ReferentialAction::Cascade,
                    ReferentialAction::Restrict,
                    ReferentialAction::SetNull,
                    ReferentialAction::NoAction,
                ];
                refer(&mut schema, &name, &column, &target.name, dice.pick(&actions));
            }
        }
    }
    schema
}

fn any_model(name: &str, dice: &mut Dice) -> Model {
    let key = match dice.roll(4) {
        0 => field("id", Scalar::Uuid),
        1 => Field { default: Some(Default::AutoIncrement), ..id() },
        _ => id(),
    };
    let mut fields = vec![key];
    for name in ["alpha", "beta", "gamma", "delta", "omega"] {
        let mut dice = dice.of(name);
        if !dice.one_in(3) {
            fields.push(any_field(name, &mut dice));
        }
    }
    if !fields.iter().any(|field| field.name == "alpha") && dice.one_in(2) {
        fields.push(Field { rename_from: Some("alpha".to_owned()), ..any_field("sigma", &mut dice.of("sigma")) });
    }
    if dice.one_in(2) {
        fields.push(version());
    }
    let mut model = model(name, fields);
    if dice.one_in(4) {
        model.table = format!("mapped_{}", model.table);
    }
    match dice.roll(3) {
        0 => model = soft(model),
        1 if dice.one_in(2) => model.append_only = true,
        _ => {}
    }
    let scalar_names: Vec<String> =
        model.fields.iter().filter(|field| !field.list).map(|field| field.name.clone()).collect();
    if dice.one_in(2) {
        let name = dice.pick(&scalar_names);
        if model.field(model.field_named(&name).unwrap()).scalar() != Some(Scalar::Json) {
            model = unique(model, &[&name]);
        }
    }
    if dice.one_in(2) {
        let name = dice.pick(&scalar_names);
        let field = model.field_named(&name).unwrap();
        if model.field(field).scalar() != Some(Scalar::Json) {
            let filter = dice.one_in(2).then(|| {
                let path = FieldPath { side: Side::Row, hops: Vec::new(), field };
                Expr::Not(Box::new(Expr::IsNull(Box::new(Expr::Field(path)))))
            });
            model.indexes.push(Index {
                name: format!("{}_extra_idx", model.table),
                fields: vec![field],
                filter,
                using: None,
            });
        }
    }
    let number = model.fields().find(|(_, field)| field.scalar() == Some(Scalar::Int) && !field.list).map(|(id, _)| id);
    if let Some(field) = number.filter(|_| dice.one_in(2)) {
        let path = Expr::Field(FieldPath { side: Side::Row, hops: Vec::new(), field });
        let bound = Expr::Const(FieldType::Scalar(Scalar::Int), Value::Int(dice.pick(&[0, 3, 100])));
        model.checks.push(Check {
            name: "big".to_owned(),
            constraint: format!("{}_big_check", model.table),
            expr: Expr::Compare(CompareOp::Ge, Box::new(path), Box::new(bound)),
            message: "too small".to_owned(),
        });
    }
    model
}

fn any_field(name: &str, dice: &mut Dice) -> Field {
    let decimal = |precision, scale| Scalar::Decimal(Some(Precision { precision, scale }));
    let scalars = [
        (Scalar::String, Value::Text("it's \"x\"".to_owned())),
        (Scalar::Int, Value::Int(-5)),
        (Scalar::BigInt, Value::Int(i64::MIN)),
        (Scalar::Float, Value::Float(-1.5)),
        (Scalar::Boolean, Value::Bool(true)),
        (decimal(10, 2), Value::Text("-0.5".to_owned())),
        (decimal(18, 4), Value::Text("12.25".to_owned())),
        (decimal(30, 4), Value::Text("12.25".to_owned())),
        (Scalar::Decimal(None), Value::Text("-1000".to_owned())),
        (Scalar::DateTime, Value::Text(T1.to_owned())),
        (Scalar::Date, Value::Text("2026-01-01".to_owned())),
        (Scalar::Uuid, Value::Text(D1.to_owned())),
        (Scalar::Bytes, Value::Bytes(vec![0, 255])),
        (Scalar::Json, Value::Text("{\"a\":\"b\"}".to_owned())),
    ];
    let (scalar, value) = dice.pick(&scalars);
    let mut field = field(name, scalar);
    let mut value = Default::Value(value);
    if dice.one_in(6) {
        field.ty = FieldType::Enum(EnumId(0));
        value = Default::Value(Value::Text("ever".to_owned()));
    } else if dice.one_in(8) && matches!(scalar, Scalar::String | Scalar::Int | Scalar::Uuid) {
        field.list = true;
        value = Default::Value(Value::List(vec![]));
    } else if dice.one_in(6) && scalar == Scalar::DateTime {
        value = Default::Now;
    }
    field.optional = !field.list && dice.one_in(2);
    field.default = dice.one_in(2).then_some(value);
    if dice.one_in(5) {
        field.column = format!("{name}_mapped");
    }
    field
}

/// A row for each table, as far as the database takes it.
async fn fill(base: &mut Base, schema: &Schema) {
    let ever = schema.enums[0].variants.last().map(|variant| crate::storage::literal(&variant.stored)).unwrap();
    for model in &schema.models {
        let mut given = Vec::new();
        for field in
            model.fields.iter().filter(|field| !field.column.starts_with("to_") && field.column != "deleted_at")
        {
            let sqlite = base.is_sqlite();
            let value = match (field.ty, field.list) {
                (_, true) => {
                    if sqlite {
                        "'[]'"
                    } else {
                        "'{}'"
                    }
                }
                (FieldType::Enum(_), _) => ever.as_str(),
                (FieldType::Scalar(scalar), _) => match scalar {
                    Scalar::Int | Scalar::BigInt => "101",
                    Scalar::Float => "2.5",
                    Scalar::Boolean => {
                        if sqlite {
                            "1"
                        } else {
                            "true"
                        }
                    }
                    Scalar::Decimal(Some(p)) if sqlite && p.precision <= 18 => "1200",
                    Scalar::Decimal(_) => {
                        if sqlite {
                            "'p500212'"
                        } else {
                            "12"
                        }
                    }
                    Scalar::DateTime => "'2026-02-02T02:02:02.020202Z'",
                    Scalar::Date => "'2026-02-02'",
                    Scalar::Uuid => "'00000000-0000-4000-8000-00000000000f'",
                    Scalar::Bytes => {
                        if sqlite {
                            "x'0102'"
                        } else {
                            "'\\x0102'"
                        }
                    }
                    Scalar::Json => "'[1]'",
                    Scalar::String | Scalar::Cuid => "'text'",
                },
                _ => unreachable!(),
            };
            given.push((format!("\"{}\"", field.column), value));
        }
        let (columns, values): (Vec<String>, Vec<&str>) = given.into_iter().unzip();
        let _ = base
            .attempt(&format!(
                "INSERT INTO \"{}\" ({}) VALUES ({})",
                model.table,
                columns.join(", "),
                values.join(", ")
            ))
            .await;
    }
}

/// The rows of the schema's tables, in columns that both schemas have with one meaning.
async fn rows(base: &mut Base, at: &Schema, other: &Schema) -> Vec<String> {
    let mut all = Vec::new();
    for model in &at.models {
        let Some(there) = other.model_named(&model.name).map(|id| other.model(id)) else { continue };
        let same = |field: &&Field| {
            let meaning = |field: &Field| (field.scalar(), field.list);
            there
                .fields
                .iter()
                .any(|other| other.name == field.name && meaning(other) == meaning(field) && field.scalar().is_some())
        };
        let mut columns: Vec<(&str, &str)> =
            model.fields.iter().filter(same).map(|field| (field.name.as_str(), field.column.as_str())).collect();
        columns.sort_unstable();
        let columns: Vec<String> = columns.iter().map(|(_, column)| format!("\"{column}\"")).collect();
        let columns = if columns.is_empty() { "1 AS one".to_owned() } else { columns.join(", ") };
        let rows = base.rows(&format!("SELECT {columns} FROM \"{}\"", model.table)).await;
        all.push(format!("{}: {rows:?}", model.name));
    }
    all.sort();
    all
}

#[tokio::test]
async fn any_change_gives_the_tables_of_a_fresh_database() {
    let rounds: u64 = std::env::var("CRATESTACK_DIFF_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    for mut base in Base::both().await {
        let (mut kept, mut refused, mut filled) = (0, 0, 0);
        for seed in 0..rounds {
            let (old, new) = (any_schema(seed, None), any_schema(seed, Some(seed)));
            clear(&mut base).await;
            base.apply(&new).await;
            let wanted = catalog(&mut base).await;
            clear(&mut base).await;
            base.apply(&old).await;
            let before = catalog(&mut base).await;
            fill(&mut base, &old).await;
            let data = rows(&mut base, &old, &new).await;
            match change(&mut base, &new).await {
                Ok(_) => {
                    kept += 1;
                    filled += data.iter().filter(|table| !table.ends_with("[]")).count();
                    assert_eq!(rows(&mut base, &new, &old).await, data, "seed {seed}");
                }
                Err(Error::Refused(_) | Error::Rows(_) | Error::Violated { .. }) => {
                    refused += 1;
                    assert_eq!(catalog(&mut base).await, before, "seed {seed}");
                    assert_eq!(rows(&mut base, &old, &new).await, data, "seed {seed}");
                    clear(&mut base).await;
                    base.apply(&old).await;
                    change(&mut base, &new).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert_eq!(catalog(&mut base).await, wanted, "seed {seed}");
        }
        assert!(kept > 0 && refused > 0 && filled >= kept, "{kept} {refused} {filled}");
    }
}
