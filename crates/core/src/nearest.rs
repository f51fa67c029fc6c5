//! Finds the word that was probably meant.

/// The length up to which words are compared: the cost grows with the length, and no name is as long.
const MAX_LENGTH: usize = 100;

/// Returns the candidate nearest to `word`; `None` if none is near enough to have been meant.
pub fn nearest<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Option<S> {
    if word.chars().nth(MAX_LENGTH).is_some() {
        return None;
    }
    // A third of the letters may differ, in upper or lower case.
    let limit = word.chars().count().max(3) / 3;
    let lower = word.to_lowercase();
    let distance =
        |candidate: &S| strsim::damerau_levenshtein(&lower, &candidate.as_ref().to_lowercase());
    let distances = candidates.into_iter().map(|candidate| (distance(&candidate), candidate));
    let near = distances.filter(|&(distance, _)| distance <= limit);
    near.min_by_key(|&(distance, _)| distance).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_a_similar_word_is_suggested() {
        let known = ["port", "targetPort", "type", "protocol", "hostAddress", "shadow"];
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("targetport", known), Some("targetPort"));
        assert_eq!(nearest("hostAdress", known), Some("hostAddress"));
        assert_eq!(nearest("replicas", known), None);
        assert_eq!(nearest("", known), None);
    }
}
