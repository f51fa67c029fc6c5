//! Answers about uplinks and routing rules from memory, and passes requests for routes on.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::Watched;
use crate::{KernelError, Routes};
use riklet_core::{
    model::InterfaceName,
    routing::{AnswerPath, RoutingRule},
};

impl Routes for Watched {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.catch_up()?;
        if let Some(uplinks) = &self.uplinks {
            return Ok(uplinks.clone());
        }
        let uplinks = self.kernel.uplinks()?;
        self.uplinks = Some(uplinks.clone());
        Ok(uplinks)
    }

    fn routes(&mut self) -> Result<Vec<IpNet>, KernelError> {
        self.kernel.routes()
    }

    fn answer_path(&mut self, from: Ipv4Net) -> Result<Option<AnswerPath>, KernelError> {
        self.catch_up()?;
        if let Some(path) = self.answer_paths.get(&from) {
            return Ok(path.clone());
        }
        let path = self.kernel.answer_path(from)?;
        self.answer_paths.insert(from, path.clone());
        Ok(path)
    }

    fn rules(&mut self) -> Result<Vec<RoutingRule>, KernelError> {
        self.catch_up()?;
        if let Some(rules) = &self.rules {
            return Ok(rules.clone());
        }
        let rules = self.kernel.rules()?;
        self.rules = Some(rules.clone());
        Ok(rules)
    }

    fn add_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        self.changing().add_rule(rule)?;
        if let Some(before) = self.rules_before.as_mut().filter(|rules| !rules.contains(rule)) {
            // As in the kernel, a new rule comes after those of the same priority.
            let place = before.partition_point(|other| other.priority <= rule.priority);
            before.insert(place, rule.clone());
        }
        Ok(())
    }

    fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        self.changing().remove_rule(rule)?;
        if let Some(before) = &mut self.rules_before {
            before.retain(|other| other != rule);
        }
        Ok(())
    }
}
