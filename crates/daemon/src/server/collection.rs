//! Serves the same operations for the instances of one kind and for all: each kind has a path.

use riklet_api::{ApiError, Collection, HttpStatus, NodeApi};
use riklet_core::model::{InstanceName, Kind, Selector, Workload};

use super::{Api, problem::Rejection};
use crate::problems;

/// The path for which routes are written. The other collections have the same routes below their own paths.
const WRITTEN: &str = "/v1/functions";

/// Returns the paths at which a route is served, each with its collection.
pub(super) fn paths(written: &str) -> Vec<(String, Collection)> {
    let Some(rest) = written.strip_prefix(WRITTEN) else {
        return vec![(written.to_owned(), Collection::EVERYTHING)];
    };
    let path = |collection: Collection| (collection.path() + rest, collection);
    Collection::each().map(path).collect()
}

/// Refuses a definition of a kind that the collection does not have.
pub(super) fn expect_kinds(
    collection: Collection,
    workloads: &[Workload],
) -> Result<(), Rejection> {
    let mut workloads = workloads.iter();
    workloads.try_for_each(|it| {
        let (name, kind) = (it.name(), it.kind().as_str());
        expect(collection, name, kind, HttpStatus::UnprocessableEntity)
    })
}

/// Refuses an instance of a kind that the collection does not have.
pub(super) fn expect(
    collection: Collection,
    name: &InstanceName,
    kind: &str,
    status: HttpStatus,
) -> Result<(), Rejection> {
    if collection.has(kind) {
        return Ok(());
    }
    let detail = format!("{name} is a {kind}, and {} has no such", collection.path());
    let error = ApiError::invalid(status, detail);
    Err(match Kind::from_name(kind).map(|kind| Collection::Of(kind).path()) {
        Some(path) => error.with_hint(format!("its path is {path}/{name}")).into(),
        None => error.into(),
    })
}

/// Converts a selector of a collection into one of the node, which knows no collections. Refuses a name of an instance
/// outside the collection. A selector of all becomes the names of the collection's instances.
pub(super) async fn select(
    api: &Api,
    collection: Collection,
    selector: Selector,
) -> Result<Selector, Rejection> {
    if collection == Collection::EVERYTHING {
        return Ok(selector);
    }
    let Selector::Named(names) = selector else {
        let listed = api.engine.with(|node| node.node().list()).await?;
        let listed = listed.map_err(|error| problems::node(&error))?.into_iter();
        let ours = listed.filter(|listed| collection.has(listed.instance.kind().as_str()));
        return Ok(Selector::Named(ours.map(|listed| listed.instance.name().clone()).collect()));
    };
    for name in &names {
        let asked = name.clone();
        let found = api.engine.with(move |node| node.inspect(&asked)).await??;
        expect(collection, name, &found.instance.kind, HttpStatus::NotFound)?;
    }
    Ok(Selector::Named(names))
}
