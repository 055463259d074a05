//! Lists.

use std::fmt;
use std::marker::PhantomData;

use cratestack_engine::api::{Answer, Code, Failure, Verb};
use cratestack_engine::json::Json;

use super::error::Error;
use super::filter::{Filter, Path, Sort};
use super::record::{Reader, unreadable};
use super::session::{Boxed, Reading, Session, Target, json};
use super::table::{Model, SoftDelete};
use super::value::ValueError;
use super::write::unforeseen;

/// What a query reads of each row.
pub trait Shape {
    /// The Rust type of it.
    type Output;

    /// Reads it; `includes` are the relations, in the order in which they were asked for.
    fn read(row: &mut Reader, includes: &[String]) -> Result<Self::Output, ValueError>;
}

/// The row itself.
#[derive(Debug)]
pub struct Plain<M>(PhantomData<fn() -> M>);

impl<M: Model> Shape for Plain<M> {
    type Output = M;

    fn read(row: &mut Reader, _: &[String]) -> Result<M, ValueError> {
        M::read(row)
    }
}

/// What `S` reads, and the rows of a relation.
#[derive(Debug)]
pub struct With<S, I>(PhantomData<fn() -> (S, I)>);

impl<S: Shape, I: Included> Shape for With<S, I> {
    type Output = (S::Output, I);

    fn read(row: &mut Reader, includes: &[String]) -> Result<Self::Output, ValueError> {
        let (last, before) = includes.split_last().ok_or_else(|| ValueError::new("includes nothing"))?;
        let included = I::decode(row.json(last)?).map_err(|error| ValueError::new(format!("`{last}` {error}")))?;
        Ok((S::read(row, before)?, included))
    }
}

/// A relation that a query can include. Generated for to-one relations; [`Many`](super::filter::Many) is the other kind.
pub trait Include<R> {
    /// What each row gets beside it: `Option<Model>`, or [`Children`](super::filter::Children).
    type Output: Included;

    /// The way to the relation.
    fn path(self) -> Path<R>;
}

/// What is read of a relation.
pub trait Included: Sized {
    /// Reads it.
    fn decode(json: Json) -> Result<Self, ValueError>;
}

impl<M: Model> Included for Option<M> {
    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Null => Ok(None),
            json => M::read(&mut Reader::new(json)?).map(Some),
        }
    }
}

/// A list of rows of `M`, not asked for yet.
#[must_use = "a query does nothing before `fetch`, `first`, `page` or `count`"]
pub struct Query<'s, M, S> {
    session: &'s Session<'s>,
    filter: Option<Filter<M>>,
    sort: Vec<String>,
    includes: Vec<String>,
    limit: Option<u64>,
    cursor: Option<String>,
    deleted: bool,
    shape: PhantomData<fn() -> S>,
}

impl<M, S> fmt::Debug for Query<'_, M, S> {
    /// Without the filter's values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sort, includes, limit, deleted, .. } = self;
        f.debug_struct("Query")
            .field("sort", sort)
            .field("includes", includes)
            .field("limit", limit)
            .field("deleted", deleted)
            .finish_non_exhaustive()
    }
}

/// Some rows of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end. Given to [`Query::after`].
    pub next: Option<String>,
}

impl<'s, M: Model> Query<'s, M, Plain<M>> {
    pub(crate) fn new(session: &'s Session<'s>) -> Self {
        Self {
            session,
            filter: None,
            sort: Vec::new(),
            includes: Vec::new(),
            limit: None,
            cursor: None,
            deleted: false,
            shape: PhantomData,
        }
    }
}

impl<'s, M: Model, S: Shape> Query<'s, M, S> {
    /// Only rows that fulfil this, too.
    pub fn filter(mut self, filter: Filter<M>) -> Self {
        self.filter = Some(match self.filter.take() {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }

    /// In this order, where what was asked for before leaves two rows equal. The primary key comes last.
    pub fn order_by(mut self, sort: Sort<M>) -> Self {
        self.sort.push(sort.text);
        self
    }

    /// At most so many rows; of [`page`](Self::page), the size of it.
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// From where a page of the same query ended.
    pub fn after(mut self, next: impl Into<String>) -> Self {
        self.cursor = Some(next.into());
        self
    }

    /// Tombstones in place of live rows, as far as the `restore` rules show them.
    pub fn deleted(mut self) -> Self
    where
        M: SoftDelete,
    {
        self.deleted = true;
        self
    }

    /// Each row with the rows of a relation beside it: `(row, related)`, and `((row, related), more)` for two of them.
    /// A row that the caller may not see is `None`.
    pub fn include<I: Include<M>>(mut self, relation: I) -> Query<'s, M, With<S, I::Output>> {
        self.includes.push(relation.path().text().to_owned());
        let Self { session, filter, sort, includes, limit, cursor, deleted, .. } = self;
        Query { session, filter, sort, includes, limit, cursor, deleted, shape: PhantomData }
    }

    /// All rows, or the first [`limit`](Self::limit) of them. What is more than a page is read page by page, so that it is
    /// not one snapshot.
    pub fn fetch(self) -> Reading<'s, Listed, Vec<S::Output>> {
        Reading::new(self.listing().all(), rows::<M, S>)
    }

    /// The first row.
    pub fn first(self) -> Reading<'s, Listed, Option<S::Output>> {
        let listing = Listing { limit: Some(1), ..self.listing() };
        Reading::new(listing.page(), |listed| Ok(rows::<M, S>(listed)?.pop()))
    }

    /// One page: [`limit`](Self::limit) rows, else [`Limits::list_default`](crate::engine::Limits::list_default).
    pub fn page(self) -> Reading<'s, Listed, Page<S::Output>> {
        Reading::new(self.listing().page(), |mut listed| {
            let next = listed.next.take();
            Ok(Page { items: rows::<M, S>(listed)?, next })
        })
    }

    /// How many rows there are, whatever [`limit`](Self::limit) and [`after`](Self::after) say.
    pub fn count(self) -> Reading<'s, u64, u64> {
        let target = Target::of::<M>("count");
        let listing = Listing { target, limit: Some(1), cursor: None, includes: Vec::new(), ..self.listing() };
        Reading::new(listing.count(), Ok)
    }

    fn listing(self) -> Listing<'s> {
        let Self { session, filter, sort, includes, limit, cursor, deleted, .. } = self;
        let filter = filter.map(|filter| filter.text);
        Listing { session, target: Target::of::<M>("list"), filter, sort, includes, limit, cursor, deleted }
    }
}

/// A query without the types of what it reads.
struct Listing<'s> {
    session: &'s Session<'s>,
    target: Target,
    filter: Option<Result<String, Error>>,
    sort: Vec<String>,
    includes: Vec<String>,
    limit: Option<u64>,
    cursor: Option<String>,
    deleted: bool,
}

/// What a query has found.
#[derive(Debug)]
pub struct Listed {
    rows: Vec<Json>,
    includes: Vec<String>,
    next: Option<String>,
}

/// Reads what was found.
fn rows<M: Model, S: Shape>(listed: Listed) -> Result<Vec<S::Output>, Error> {
    let Listed { rows, includes, .. } = listed;
    let read = rows.into_iter().map(|row| S::read(&mut Reader::new(row)?, &includes));
    read.collect::<Result<_, _>>().map_err(|error| unreadable(M::NAME, &error))
}

fn elements(page: &str) -> Result<Vec<Json>, Error> {
    match json(page) {
        Ok(Json::Array(rows)) => Ok(rows),
        Ok(_) => Err(unreadable("a list", &ValueError::new("the page is no list"))),
        Err(error) => Err(unreadable("a list", &error)),
    }
}

impl<'s> Listing<'s> {
    fn all(mut self) -> Boxed<'s, Listed> {
        Box::pin(async move {
            let most = u64::from(self.session.limits().list_max);
            let (mut rows, mut left) = (Vec::new(), self.limit);
            while left != Some(0) {
                let asked = left.map_or(most, |left| left.min(most));
                self.limit = Some(asked);
                let (items, next) = self.ask().await?;
                rows.extend(elements(&items)?);
                // A page that has a next one is full.
                left = left.map(|left| left.saturating_sub(asked));
                match next {
                    Some(next) => self.cursor = Some(next),
                    None => break,
                }
            }
            Ok(Listed { rows, includes: self.includes, next: None })
        })
    }

    fn page(self) -> Boxed<'s, Listed> {
        Box::pin(async move {
            let (items, next) = self.ask().await?;
            Ok(Listed { rows: elements(&items)?, includes: self.includes, next })
        })
    }

    fn count(self) -> Boxed<'s, u64> {
        Box::pin(async move {
            let mut params = self.params()?;
            params.push(("count".to_owned(), "exact".to_owned()));
            match self.session.run(self.target, Verb::List { params }).await? {
                Answer::Page { total: Some(total), .. } => Ok(total),
                other => Err(unforeseen(&other)),
            }
        })
    }

    async fn ask(&self) -> Result<(String, Option<String>), Error> {
        match self.session.run(self.target, Verb::List { params: self.params()? }).await? {
            Answer::Page { items, next, .. } => Ok((items, next)),
            other => Err(unforeseen(&other)),
        }
    }

    /// The parameters of docs/http.md's "Lists".
    fn params(&self) -> Result<Vec<(String, String)>, Error> {
        if let Some(far) = self.includes.iter().find(|name| name.contains('.')) {
            let detail = format!("`{far}` cannot be included: it is more than one relation away");
            return Err(Failure::new(Code::InvalidQuery, detail).into());
        }
        let mut params = Vec::new();
        let mut push = |name: &str, value: String| params.push((name.to_owned(), value));
        if let Some(filter) = &self.filter {
            push("where", filter.clone()?);
        }
        if !self.sort.is_empty() {
            push("sort", self.sort.join(","));
        }
        if !self.includes.is_empty() {
            push("include", self.includes.join(","));
        }
        if let Some(limit) = self.limit {
            push("limit", limit.to_string());
        }
        if let Some(cursor) = &self.cursor {
            push("cursor", cursor.clone());
        }
        if self.deleted {
            push("deleted", "only".to_owned());
        }
        Ok(params)
    }
}
