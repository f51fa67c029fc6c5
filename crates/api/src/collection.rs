use riklet_core::model::Kind;

/// The instances that share a path in the API: those of one kind, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// The instances of one kind.
    Of(Kind),
    /// The instances of every kind.
    All,
}

impl Collection {
    /// The collection of every instance. If there is only one kind, it is the collection of that kind; otherwise it is
    /// [`Self::All`].
    pub const EVERYTHING: Self = match Kind::ALL {
        [only] => Self::Of(*only),
        _ => Self::All,
    };

    /// Returns each collection that the API has, [`Self::EVERYTHING`] among them.
    pub fn each() -> impl Iterator<Item = Self> {
        let every = (Self::EVERYTHING == Self::All).then_some(Self::All);
        Kind::ALL.iter().copied().map(Self::Of).chain(every)
    }

    /// Returns its path.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Of(kind) => format!("/v1/{}", kind.collection()),
            Self::All => "/v1/instances".to_owned(),
        }
    }

    /// Returns whether the collection has the instances of this kind. `kind` is spelt as in documents.
    #[must_use]
    pub fn has(self, kind: &str) -> bool {
        match self {
            Self::Of(own) => own.as_str() == kind,
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_keep_their_path() {
        assert_eq!(Collection::Of(Kind::Function).path(), "/v1/functions");
        assert!(Collection::each().any(|each| each == Collection::Of(Kind::Function)));
        assert!(Collection::each().any(|each| each == Collection::EVERYTHING));
        assert!(Kind::ALL.iter().all(|kind| Collection::EVERYTHING.has(kind.as_str())));
    }

    #[cfg(feature = "toy-kind")]
    #[test]
    fn kinds_have_separate_collections_and_share_one() {
        let paths: Vec<_> = Collection::each().map(Collection::path).collect();
        assert_eq!(paths, ["/v1/functions", "/v1/pods", "/v1/toys", "/v1/instances"]);
        assert_eq!(Collection::EVERYTHING, Collection::All);
        assert!(!Collection::Of(Kind::Function).has("Toy"));
    }
}
