//! The procedures of the bank.

/// What the schema makes.
pub mod schema {
    cratestack::include_schema!("bank.cstack");
}

use cratestack::Error;
use schema::{Direction, NewEntry, NewTransfer, Principal, ReadTx, StatementInput, StatementLine, Transfer};
use schema::{TransferInput, TransferStatus, Tx, account, entry, transfer};

/// Their bodies.
#[derive(Debug)]
pub struct Bank;

impl schema::Procedures for Bank {
    async fn transfer(&self, tx: &mut Tx<'_>, _: &Principal, args: TransferInput) -> Result<Transfer, Error> {
        let (from, to) = (tx.accounts().get(args.from_id).await?, tx.accounts().get(args.to_id).await?);
        if from.currency != to.currency {
            return Err(Error::reject("currency_mismatch", 409, "the accounts are in different currencies"));
        }
        if from.balance - from.held + from.overdraft < args.amount {
            return Err(Error::reject("insufficient_funds", 409, "the account does not hold that much"));
        }
        // Balances, entries and settled transfers are what no rule lets anybody write.
        let ledger = tx.without_rules();
        let (from_id, to_id, amount) = (from.id, to.id, args.amount);
        let new = NewTransfer { id: None, from_id, to_id, amount, reference: args.reference };
        let done = ledger.transfers().create(new).put(transfer::status(), TransferStatus::Settled).await?.into_row()?;
        let sides = [(&from, Direction::Debit, from.balance - amount), (&to, Direction::Credit, to.balance + amount)];
        for (account, direction, balance) in sides {
            let moved = ledger.accounts().update(account.id).if_version(account.version);
            moved.put(account::balance(), balance).await?;
            let new = NewEntry { account_id: account.id, transfer_id: done.id, direction, amount, balance };
            ledger.entries().create(new).await?;
        }
        Ok(done)
    }

    async fn statement(
        &self,
        tx: &mut ReadTx<'_>,
        _: &Principal,
        StatementInput { account_id, from, to }: StatementInput,
    ) -> Result<Vec<StatementLine>, Error> {
        let midnight = |day: cratestack::NaiveDate| day.and_time(cratestack::chrono::NaiveTime::MIN).and_utc();
        let days = entry::created_at().gte(midnight(from)).and(entry::created_at().lt(midnight(to)));
        let entries = tx.entries().filter(entry::account_id().eq(account_id).and(days)).order_by(entry::id().asc());
        let line = |(entry, transfer): (schema::Entry, Option<Transfer>)| StatementLine {
            booked_at: entry.created_at,
            direction: entry.direction,
            amount: entry.amount,
            balance: entry.balance,
            reference: transfer.map_or_else(String::new, |transfer| transfer.reference),
        };
        Ok(entries.include(entry::transfer()).fetch().await?.into_iter().map(line).collect())
    }
}
