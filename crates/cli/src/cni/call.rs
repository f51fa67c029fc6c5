//! The calls of a runtime, which variables of the environment say. Pure.

use std::collections::BTreeMap;

use riklet_core::nearest::nearest;

use super::{
    attachment::Attachment,
    error::{Code, Error},
};

/// The variable that makes the program a plugin.
pub(crate) const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NAMESPACE: &str = "CNI_NETNS";
const INTERFACE: &str = "CNI_IFNAME";
/// The variables that are read. `CNI_PATH` and `CNI_ARGS` are not: no other plugin is called, and there are no settings
/// of ours in them.
pub(crate) const VARIABLES: [&str; 4] = [COMMAND, CONTAINER, NAMESPACE, INTERFACE];

/// The commands of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [Self; 6] =
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    pub(crate) fn of(variables: &BTreeMap<String, String>) -> Result<Self, Error> {
        let text = variables.get(COMMAND).map(String::as_str).unwrap_or_default();
        let found = Self::ALL.into_iter().find(|command| command.as_str() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str);
            let details = match nearest(text, known) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            Error::new(Code::Environment, format!("{COMMAND} is {text:?}"), details)
        })
    }
}

/// A command with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Add(Attachment),
    Del(Attachment),
    Check(Attachment),
    Gc,
    Status,
}

impl Call {
    /// Returns what is asked; `VERSION` asks for nothing.
    pub(crate) fn of(
        command: Command,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        Ok(match command {
            Command::Add => Self::Add(attachment(variables, true)?),
            Command::Check => Self::Check(attachment(variables, true)?),
            Command::Del => Self::Del(attachment(variables, false)?),
            Command::Gc => Self::Gc,
            Command::Status | Command::Version => Self::Status,
        })
    }
}

/// Reads the container, its interface and its namespace. Each error names the variable.
fn attachment(
    variables: &BTreeMap<String, String>,
    needs_namespace: bool,
) -> Result<Attachment, Error> {
    let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    let required = [Some(CONTAINER), Some(INTERFACE), needs_namespace.then_some(NAMESPACE)];
    let missing = required.into_iter().flatten().filter(|name| get(name).is_none());
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        let details = "each has to be set for this command";
        return Err(Error::new(
            Code::Environment,
            format!("missing: {}", missing.join(", ")),
            details,
        ));
    }
    let text = |name: &str| get(name).map(String::as_str).unwrap_or_default();
    let wrong = |name: &str, details: String| {
        Error::new(Code::Environment, format!("{name} is wrong: {:?}", text(name)), details)
    };
    let container = container(text(CONTAINER)).map_err(|words| wrong(CONTAINER, words))?;
    let interface = text(INTERFACE).parse();
    let interface = interface.map_err(|error: riklet_core::model::InterfaceNameError| {
        wrong(INTERFACE, error.to_string())
    })?;
    let namespace = match get(NAMESPACE).map(|path| path.parse()) {
        None => None,
        Some(Ok(path)) => Some(path),
        // The namespace of what is deleted may be gone, whatever its name was.
        Some(Err(_)) if !needs_namespace => None,
        Some(Err(error)) => {
            let error: riklet_core::model::NamespacePathError = error;
            return Err(wrong(NAMESPACE, error.to_string()));
        }
    };
    Ok(Attachment { container, interface, namespace })
}

/// Reads the ID of a container: a letter or a digit, then also `_`, `.` and `-`.
pub(crate) fn container(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed);
    let words = "it has letters, digits, '_', '.' and '-', and begins with a letter or a digit";
    fits.then(|| text.to_owned()).ok_or_else(|| words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_error_names_the_variable() {
        let said = |values: &[(&str, &str)], command| {
            let error = Call::of(command, &variables(values)).unwrap_err();
            assert_eq!(error.code, Code::Environment);
            error.message
        };
        assert_eq!(said(&[], Command::Add), "missing: CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS");
        assert_eq!(said(&[(CONTAINER, "")], Command::Del), "missing: CNI_CONTAINERID, CNI_IFNAME");
        let rest = [(NAMESPACE, "/run/netns/a"), (INTERFACE, "eth0")];
        let with = |more: (&'static str, &'static str)| {
            let mut all = vec![(CONTAINER, "a"), rest[0], rest[1]];
            all.push(more);
            said(&all, Command::Add)
        };
        assert_eq!(with((CONTAINER, "-a")), "CNI_CONTAINERID is wrong: \"-a\"");
        assert_eq!(with((INTERFACE, "a/b")), "CNI_IFNAME is wrong: \"a/b\"");
        assert_eq!(with((NAMESPACE, "netns")), "CNI_NETNS is wrong: \"netns\"");
        let unknown = Command::of(&variables(&[(COMMAND, "ADDD")])).unwrap_err();
        assert_eq!(unknown.details, "did you mean ADD?");
    }

    #[test]
    fn a_deletion_needs_no_namespace() {
        let values = [(CONTAINER, "a_1"), (INTERFACE, "eth0")];
        for namespace in [None, Some((NAMESPACE, "")), Some((NAMESPACE, "gone"))] {
            let all: Vec<_> = values.into_iter().chain(namespace).collect();
            let call = Call::of(Command::Del, &variables(&all)).unwrap();
            let Call::Del(Attachment { container, namespace, .. }) = call else {
                panic!("{call:?}")
            };
            assert_eq!((&*container, namespace), ("a_1", None));
        }
    }
}
