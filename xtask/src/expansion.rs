//! `cargo xtask bench-macro`: what `include_schema!` costs the compiler, on a crate of many models that it generates.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::run;

/// Lines of a model with nine fields and a relation.
fn model(at: usize) -> String {
    let before = at.saturating_sub(1);
    format!(
        "/// What the bank knows of the {at}th thing.\nmodel Thing{at} {{\n  id Uuid @id @default(uuid())\n  parentId Uuid?\n  \
         name String @length(max: 80)\n  email String? @email\n  amount Decimal(18, 4) @default(0)\n  status Status \
         @default(open)\n  createdAt DateTime @default(now())\n  updatedAt DateTime @updatedAt\n  version Int @version\n  \
         parent Thing{before}? @relation(name: \"r{at}\", fields: [parentId], references: [id])\n  children Thing{next}[] \
         @relation(name: \"r{next}\")\n  @@allow(\"all\", true)\n}}\n",
        next = at + 1,
    )
}

/// A function that uses most of what a model has.
fn usage(at: usize) -> String {
    format!(
        "pub async fn use{at}(db: &bank::Session<'_>) -> Result<u64, cratestack::Error> {{\n    use bank::thing{at} as thing;\n    \
         let table = db.thing{at}s();\n    let new = bank::NewThing{at} {{ id: None, parent_id: None, name: String::new(), \
         email: None, amount: None, status: None }};\n    let row = table.create(new).await?.into_row()?;\n    let patch = \
         bank::Thing{at}Patch {{ email: cratestack::Change::Set(None), ..Default::default() }};\n    \
         table.update(row.id).if_version(row.version).set(patch).await?;\n    table.delete(row.id).any_version().await?;\n    \
         let filter = thing::amount().gt(5).and(thing::parent().name().eq(\"x\"));\n    \
         let rows = table.filter(filter).order_by(thing::name().asc()).include(thing::parent()).fetch().await?;\n    \
         Ok(rows.len() as u64)\n}}\n"
    )
}

/// Prints seconds and largest process of a rebuild after a field was added to one model: checked and built, without and
/// with functions that use the models. `CARGO_INCREMENTAL=0` measures the whole crate.
pub(crate) fn main(args: &[String]) -> Result<(), String> {
    let models = args.first().map_or(Ok(100), |text| text.parse::<usize>().map_err(|error| error.to_string()))?;
    let folder = run::root().join("target/bench-macro");
    let failed = |error: std::io::Error| format!("cannot write `{}`: {error}", folder.display());
    std::fs::create_dir_all(folder.join("src")).map_err(failed)?;
    std::fs::copy(run::root().join("Cargo.lock"), folder.join("Cargo.lock")).map_err(failed)?;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).map_err(failed);
    write(
        "Cargo.toml",
        "[package]\nname = \"bench-macro\"\nedition = \"2024\"\n[dependencies]\ncratestack = { path = \"../../crates/cratestack\" }\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n[workspace]\n",
    )?;
    let mut schema = "enum Status { open closed }\n".to_owned();
    for at in 0..models {
        schema.push_str(&model(at));
    }
    // The ends of the chain of relations.
    let schema = schema
        .replace("  parent Thing0? @relation(name: \"r0\", fields: [parentId], references: [id])\n", "")
        .replace(&format!("  children Thing{models}[] @relation(name: \"r{models}\")\n"), "");
    let module = "pub mod bank { cratestack::include_schema!(\"bank.cstack\"); }\n";
    let mut used = module.to_owned();
    for at in 1..models {
        used.push_str(&usage(at));
    }
    println!("{models} models, {} lines of schema", schema.lines().count());
    for (what, code) in [("the models", module), ("and a function for each", &used)] {
        for command in ["check", "build"] {
            write("src/lib.rs", code)?;
            write("bank.cstack", &schema)?;
            measured(&folder, command)?;
            write("bank.cstack", &schema.replacen("  name String", "  edited Int?\n  name String", 1))?;
            let mut line = format!("{what:<25} cargo {command}: ");
            let _ = write!(line, "{}", measured(&folder, command)?);
            println!("{line}");
        }
    }
    Ok(())
}

/// Runs Cargo under GNU time, which knows the largest process below it.
fn measured(folder: &Path, command: &str) -> Result<String, String> {
    let output = Command::new("/usr/bin/time")
        .args(["--format", "%e s (%U s of CPU), %M KiB", "cargo", command, "--quiet", "--target-dir", "target"])
        .current_dir(folder)
        .output()
        .map_err(|error| format!("GNU time is needed at `/usr/bin/time`: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(text.lines().last().unwrap_or_default().to_owned())
    } else {
        Err(format!("`cargo {command}` failed:\n{text}"))
    }
}
