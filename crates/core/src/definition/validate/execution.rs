//! Validates `execution`, which describes the microVM.

use super::{Object, Reason, Validator, address};
use crate::{
    definition::tree::Value,
    excerpt::excerpt,
    model::{
        Accelerator, Account, BootArgs, Dns, Execution, ExecutionConflict, Image, Memory,
        MemoryError, Queues, Sha256, Vcpus, Vmm,
    },
    nearest::nearest,
};

const EXECUTION: &[&str] = &[
    "vmm",
    "kernel",
    "initrd",
    "rootfs",
    "readOnly",
    "vcpus",
    "memory",
    "bootArgs",
    "accelerator",
    "user",
    "group",
    "sharedUser",
    "queues",
    "dns",
];
const IMAGE: &[&str] = &["source", "sha256"];

impl Validator {
    pub(crate) fn execution(&mut self, function: &Object<'_>) -> Execution {
        let object = self.optional_object(function, "execution", EXECUTION);
        let Some(object) = object else { return Execution::default() };
        let execution = Execution {
            vmm: self.choice(&object, "vmm", "VMM", &Vmm::ALL, Vmm::as_str),
            kernel: self.image(&object, "kernel"),
            initrd: self.image(&object, "initrd"),
            rootfs: self.image(&object, "rootfs"),
            read_only: self.boolean(&object, "readOnly"),
            vcpus: self.count(&object, "vcpus", Vcpus::new),
            memory: self.memory(&object),
            boot_args: self.boot_args(&object),
            accelerator: self.choice(
                &object,
                "accelerator",
                "accelerator",
                &Accelerator::ALL,
                Accelerator::as_str,
            ),
            user: self.account(&object, "user"),
            group: self.account(&object, "group"),
            shared_user: self.boolean(&object, "sharedUser"),
            queues: self.count(&object, "queues", Queues::new),
            dns: self.dns(&object),
        };
        for conflict in execution.conflicts() {
            let name = match conflict {
                ExecutionConflict::Accelerator { .. } => "accelerator",
                ExecutionConflict::Queues { .. } => "queues",
            };
            let at = object.get(name).map_or(object.at, |node| node.at);
            self.refuse(at, object.path(name), conflict.into());
        }
        execution
    }

    /// Reads one of some names, in upper or lower case.
    pub(super) fn choice<T: Copy>(
        &mut self,
        object: &Object<'_>,
        name: &str,
        what: &'static str,
        all: &[T],
        spelt: fn(T) -> &'static str,
    ) -> Option<T> {
        let (at, text) = self.string(object, name, false)?;
        let chosen = all.iter().copied().find(|&one| spelt(one).eq_ignore_ascii_case(text));
        let chosen = chosen.ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|&one| spelt(one)).collect();
            let nearest = nearest(text, known.iter().copied());
            Reason::UnknownChoice { what, found: excerpt(text), known, nearest }
        });
        self.accept(chosen, at, || object.path(name))
    }

    /// Reads a path or a URL, or an object that has one.
    fn image(&mut self, object: &Object<'_>, name: &str) -> Option<Image> {
        let node = object.get(name)?;
        let path = object.path(name);
        match &node.value {
            Value::String(source) => {
                self.accept(Image::new(source, None).map_err(Reason::from), node.at, || path)
            }
            Value::Map(_) => {
                let image = self.object(node, &path, IMAGE)?;
                let sha256 = self.sha256(&image);
                let (at, source) = self.string(&image, "source", true)?;
                let new = Image::new(source, sha256).map_err(Reason::from);
                self.accept(new, at, || image.path("source"))
            }
            other => {
                let expected = "a string or an object";
                self.refuse(node.at, path, Reason::Sort { expected, found: other.sort() });
                None
            }
        }
    }

    fn sha256(&mut self, image: &Object<'_>) -> Option<Sha256> {
        let (at, text) = self.string(image, "sha256", false)?;
        self.accept(text.parse().map_err(Reason::Sha256), at, || image.path("sha256"))
    }

    /// Reads a whole number in a range.
    fn count<T, E: Into<Reason>>(
        &mut self,
        object: &Object<'_>,
        name: &str,
        new: fn(i64) -> Result<T, E>,
    ) -> Option<T> {
        let node = object.get(name)?;
        let counted = match &node.value {
            Value::Integer(count) => new(*count).map_err(Into::into),
            Value::Number(found) => Err(Reason::Fraction { found: excerpt(found) }),
            other => Err(Reason::Sort { expected: "a number", found: other.sort() }),
        };
        self.accept(counted, node.at, || object.path(name))
    }

    fn memory(&mut self, object: &Object<'_>) -> Option<Memory> {
        let node = object.get("memory")?;
        let memory = match &node.value {
            Value::Integer(mib) => Memory::new(*mib).map_err(Reason::Memory),
            Value::Number(text) => Err(MemoryError::Fraction { text: text.clone() }.into()),
            Value::String(text) => text.parse().map_err(Reason::Memory),
            other => {
                let expected = "MiB as a number, or an amount such as \"512M\"";
                Err(Reason::Sort { expected, found: other.sort() })
            }
        };
        self.accept(memory, node.at, || object.path("memory"))
    }

    fn boot_args(&mut self, object: &Object<'_>) -> Option<BootArgs> {
        let (at, text) = self.string(object, "bootArgs", false)?;
        self.accept(BootArgs::try_from(text).map_err(Reason::BootArgs), at, || {
            object.path("bootArgs")
        })
    }

    fn account(&mut self, object: &Object<'_>, name: &str) -> Option<Account> {
        let node = object.get(name)?;
        let account = match &node.value {
            Value::Integer(id) => Account::of_id(*id).map_err(Reason::Account),
            Value::Number(found) => Err(Reason::Fraction { found: excerpt(found) }),
            Value::String(text) => text.parse().map_err(Reason::Account),
            other => Err(Reason::Sort { expected: "a name or a number", found: other.sort() }),
        };
        self.accept(account, node.at, || object.path(name))
    }

    fn dns(&mut self, object: &Object<'_>) -> Option<Dns> {
        let (at, items) = self.list(object, "dns", "a list of IPv4 addresses")?;
        let path = object.path("dns");
        let read = |(index, item)| self.parsed(item, format!("{path}[{index}]"), address);
        let servers: Vec<_> = items.iter().enumerate().filter_map(read).collect();
        if servers.len() < items.len() {
            return None;
        }
        self.accept(Dns::try_from(servers).map_err(Reason::from), at, || path)
    }
}
