//! Interprets a server's answer to the request for a download, or for the rest of one. Pure.

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, StatusCode, header};

/// A value that identifies one version of a file byte for byte: a strong validator (RFC 9110, 8.8.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Validator {
    /// The header `ETag`, with its quotes.
    Tag(String),
    /// The header `Last-Modified`.
    Modified(String),
}

/// The part of a file that was already received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    /// The number of bytes received; at least one.
    pub(super) received: u64,
    pub(super) validator: Validator,
    /// The number of bytes in all, if the server said so.
    pub(super) total: Option<u64>,
}

/// The next step of a download.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Receive the whole file, from its beginning.
    Whole { total: Option<u64>, validator: Option<Validator> },
    /// Receive the missing rest.
    Rest { total: Option<u64> },
    /// Request the whole file again: the answer is of no use.
    AskAnew,
    /// Give up: the server refuses, or the answer is not a file.
    Refused,
    /// Receive a file whose end is the end of the connection, orderly or not.
    Endless,
}

/// Decides what to do with an answer; `begun` is the part that the request asked to complete.
pub(super) fn judge(begun: Option<&Begun>, status: StatusCode, headers: &HeaderMap) -> Verdict {
    match (status, begun) {
        (StatusCode::OK, _) => whole(headers),
        (StatusCode::PARTIAL_CONTENT, Some(begun)) => rest(begun, headers),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => Verdict::AskAnew,
        _ => Verdict::Refused,
    }
}

fn whole(headers: &HeaderMap) -> Verdict {
    let total = length(headers);
    // RFC 9112, 6.3: chunks mark their end. Without chunks and without a length, the end of the connection is the end
    // of the file.
    if total.is_none() && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Verdict::Endless;
    }
    Verdict::Whole { total, validator: validator(headers) }
}

fn rest(begun: &Begun, headers: &HeaderMap) -> Verdict {
    let Some(range) = text(headers, header::CONTENT_RANGE).and_then(Range::parse) else {
        return Verdict::AskAnew;
    };
    let total = range.total.or(begun.total);
    let same_total = range.total.is_none_or(|now| begun.total.is_none_or(|then| now == then));
    let same_version = validator(headers).is_none_or(|now| now == begun.validator);
    let extent = (range.last - range.first).checked_add(1);
    let same_length = length(headers).is_none_or(|length| extent == Some(length));
    let fits = range.first == begun.received && total.is_none_or(|total| range.last < total);
    if fits && same_total && same_version && same_length {
        Verdict::Rest { total }
    } else {
        Verdict::AskAnew
    }
}

/// Returns the validator for `If-Range`: a strong entity tag or, only if there is no entity tag at all, a date that is
/// earlier than the answer (RFC 9110, 13.1.5 and 8.8.2.2). A `Last-Modified` is never later than the answer (8.8.2.1),
/// so one that differs from it is earlier.
fn validator(headers: &HeaderMap) -> Option<Validator> {
    if headers.contains_key(header::ETAG) {
        let tag = text(headers, header::ETAG)?;
        return tag.starts_with('"').then(|| Validator::Tag(tag.to_owned()));
    }
    let modified = text(headers, header::LAST_MODIFIED)?;
    let now = text(headers, header::DATE)?;
    (modified != now).then(|| Validator::Modified(modified.to_owned()))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.parse().ok()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The header `Content-Range`. `first` is not after `last`.
struct Range {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(Self { first, last, total })
    }
}

impl Validator {
    /// Returns the value for the header `If-Range`.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Tag(text) | Self::Modified(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "Mon, 02 Nov 2026 10:00:00 GMT";
    const NOW: &str = "Mon, 02 Nov 2026 10:00:01 GMT";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn tag(text: &str) -> Validator {
        Validator::Tag(text.to_owned())
    }

    fn begun(total: Option<u64>) -> Begun {
        Begun { received: 40, validator: tag("\"a\""), total }
    }

    fn rest_of(total: Option<u64>, lines: &[(&'static str, &str)]) -> Verdict {
        judge(Some(&begun(total)), StatusCode::PARTIAL_CONTENT, &headers(lines))
    }

    #[test]
    fn whole_file_needs_a_length_or_chunks() {
        let judged = |lines: &[_]| judge(None, StatusCode::OK, &headers(lines));
        let whole = |total| Verdict::Whole { total, validator: None };
        assert_eq!(judged(&[("content-length", "100")]), whole(Some(100)));
        assert_eq!(judged(&[("transfer-encoding", "chunked")]), whole(None));
        assert_eq!(judged(&[]), Verdict::Endless);
        // The server does not support ranges.
        let length = headers(&[("content-length", "100")]);
        assert_eq!(judge(Some(&begun(None)), StatusCode::OK, &length), whole(Some(100)));
    }

    #[test]
    fn only_strong_validators_count() {
        let found = |lines: &[_]| validator(&headers(lines));
        assert_eq!(found(&[("etag", "\"a\"")]), Some(tag("\"a\"")));
        let modified = [("last-modified", THEN), ("date", NOW)];
        assert_eq!(found(&modified), Some(Validator::Modified(THEN.to_owned())));
        // A file modified in the second of the answer may be modified again within that second.
        assert_eq!(found(&[("last-modified", NOW), ("date", NOW)]), None);
        assert_eq!(found(&[("last-modified", THEN)]), None);
        assert_eq!(found(&[("etag", "W/\"a\"")]), None);
        assert_eq!(found(&[("etag", "W/\"a\""), modified[0], modified[1]]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn matching_range_is_accepted() {
        let rest = |total| Verdict::Rest { total };
        assert_eq!(rest_of(Some(100), &[("content-range", "bytes 40-99/100")]), rest(Some(100)));
        assert_eq!(rest_of(None, &[("content-range", "bytes 40-99/100")]), rest(Some(100)));
        assert_eq!(rest_of(Some(100), &[("content-range", "bytes 40-99/*")]), rest(Some(100)));
        assert_eq!(rest_of(None, &[("content-range", "bytes 40-99/*")]), rest(None));
        // The range is shorter than the missing part: what is still missing is requested next.
        let lines =
            [("content-range", "bytes 40-59/100"), ("content-length", "20"), ("etag", "\"a\"")];
        assert_eq!(rest_of(Some(100), &lines), rest(Some(100)));
    }

    #[test]
    fn mismatched_range_restarts_the_download() {
        for range in [
            "bytes 41-99/100",
            "bytes 0-99/100",
            "bytes 40-99/101",
            "bytes 40-100/100",
            "bytes 40-39/100",
            "bytes */100",
            "bytes 40-/100",
            "40-99/100",
        ] {
            let verdict = rest_of(Some(100), &[("content-range", range)]);
            assert_eq!(verdict, Verdict::AskAnew, "{range}");
        }
        let fitting = ("content-range", "bytes 40-99/100");
        for other in [("etag", "\"b\""), ("content-length", "59"), ("content-length", "0")] {
            assert_eq!(rest_of(Some(100), &[fitting, other]), Verdict::AskAnew, "{other:?}");
        }
        assert_eq!(rest_of(None, &[("content-type", "multipart/byteranges")]), Verdict::AskAnew);
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        let verdict = judge(Some(&begun(None)), status, &headers(&[]));
        assert_eq!(verdict, Verdict::AskAnew);
    }

    #[test]
    fn first_answer_other_than_ok_is_refused() {
        for status in [204, 206, 304, 404, 416, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge(None, status, &headers(&[])), Verdict::Refused, "{status}");
        }
    }
}
