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
const ARGUMENTS: &str = "CNI_ARGS";
/// The variables that are read. `CNI_PATH` is not: no other plugin is called.
pub(crate) const VARIABLES: [&str; 5] = [COMMAND, CONTAINER, NAMESPACE, INTERFACE, ARGUMENTS];
/// The argument that allows others, and its values that do so.
const IGNORE: &str = "IgnoreUnknown";
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
/// Arguments by which runtimes ask for what they ask others by `ips` and `mac`.
const ADDRESSES: [&str; 3] = ["IP", "MAC", "GATEWAY"];

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
            Command::Add => {
                arguments(variables.get(ARGUMENTS).map(String::as_str).unwrap_or_default())?;
                Self::Add(attachment(variables, true)?)
            }
            Command::Check => Self::Check(attachment(variables, true)?),
            Command::Del => Self::Del(attachment(variables, false)?),
            Command::Gc => Self::Gc,
            Command::Status | Command::Version => Self::Status,
        })
    }
}

/// Checks the arguments of the runtime, `KEY=VALUE;…`. There are none of ours: those of others are ignored if they say so.
/// Those that ask for addresses never are: a container would be started without what was asked for it.
fn arguments(text: &str) -> Result<(), Error> {
    let wrong = |details: String| {
        Err(Error::new(Code::Environment, format!("{ARGUMENTS} is wrong: {text:?}"), details))
    };
    let mut names = Vec::new();
    let mut ignore = false;
    for argument in text.split(';').filter(|argument| !argument.is_empty()) {
        let Some((name, value)) = argument.split_once('=') else {
            return wrong(format!("expected KEY=VALUE, found {argument:?}"));
        };
        match name {
            IGNORE => ignore = TRUE.contains(&value),
            _ if ADDRESSES.contains(&name) && !value.is_empty() => {
                return wrong(format!("{name} is not supported: addresses follow from the slot"));
            }
            _ => names.push(name),
        }
    }
    if ignore || names.is_empty() {
        return Ok(());
    }
    wrong(format!("unknown: {}; {IGNORE}=1 has them ignored", names.join(", ")))
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
    fn arguments_are_ignored_only_if_they_say_so_and_ask_for_no_address() {
        let said = |text: &str| arguments(text).map_err(|error| error.details);
        for text in [
            "",
            ";",
            "IgnoreUnknown=1",
            "IgnoreUnknown=true;K8S_POD_NAME=web",
            "IP=;IgnoreUnknown=1",
        ] {
            assert_eq!(said(text), Ok(()), "{text}");
        }
        let wrong = |text: &str| said(text).unwrap_err();
        assert_eq!(wrong("A=1;B="), "unknown: A, B; IgnoreUnknown=1 has them ignored");
        assert_eq!(wrong("A=1;IgnoreUnknown=0"), "unknown: A; IgnoreUnknown=1 has them ignored");
        assert_eq!(wrong("IgnoreUnknown=1;A"), "expected KEY=VALUE, found \"A\"");
        for name in ADDRESSES {
            let text = format!("IgnoreUnknown=1;{name}=192.0.2.1");
            assert_eq!(
                wrong(&text),
                format!("{name} is not supported: addresses follow from the slot")
            );
        }
        // What was attached is detached, whatever the arguments are by now.
        let values = [(CONTAINER, "a"), (INTERFACE, "eth0"), (NAMESPACE, "/x"), (ARGUMENTS, "A")];
        assert!(Call::of(Command::Del, &variables(&values)).is_ok());
        let error = Call::of(Command::Add, &variables(&values)).unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Environment, "CNI_ARGS is wrong: \"A\""));
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
