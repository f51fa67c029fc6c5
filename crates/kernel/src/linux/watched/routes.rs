//! Answers about uplinks and routing rules from memory, and passes requests for routes on.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::Watched;
use crate::{KernelError, Routes};
use riklet_core::{
    model::InterfaceName,
    routing::{AnswerPath, HostRoute, NextHop, RoutingRule, UplinkRoute},
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

    fn default_interfaces(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.kernel.default_interfaces()
    }

    fn route_to(&mut self, to: IpAddr) -> Result<Option<HostRoute>, KernelError> {
        self.kernel.route_to(to)
    }

    fn is_local(&mut self, address: IpAddr) -> Result<bool, KernelError> {
        self.kernel.is_local(address)
    }

    fn routes(&mut self) -> Result<Vec<HostRoute>, KernelError> {
        self.kernel.routes()
    }

    fn gateways(&mut self) -> Result<BTreeSet<Ipv4Addr>, KernelError> {
        self.kernel.gateways()
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

    fn next_hop(&mut self, uplink: &InterfaceName) -> Result<Option<NextHop>, KernelError> {
        self.catch_up()?;
        if let Some(hop) = self.next_hops.get(uplink) {
            return Ok(*hop);
        }
        let hop = self.kernel.next_hop(uplink)?;
        self.next_hops.insert(uplink.clone(), hop);
        Ok(hop)
    }

    fn uplink_routes(
        &mut self,
        tables: &BTreeSet<u32>,
    ) -> Result<BTreeSet<UplinkRoute>, KernelError> {
        self.catch_up()?;
        let mut found = BTreeSet::new();
        for &table in tables {
            let routes = match self.uplink_routes.get(&table) {
                Some(routes) => routes.clone(),
                None => self.kernel.uplink_routes(&[table].into())?,
            };
            self.uplink_routes.insert(table, routes.clone());
            found.extend(routes);
        }
        Ok(found)
    }

    fn add_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        self.version += 1;
        self.changing().add_route(route)?;
        if let Some(before) = &mut self.uplinks_before {
            before.routes.retain(|other| other.table != route.table);
            before.routes.insert(route.clone());
        }
        Ok(())
    }

    fn remove_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        self.version += 1;
        self.changing().remove_route(route)?;
        if let Some(before) = &mut self.uplinks_before {
            before.routes.remove(route);
        }
        Ok(())
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
        self.version += 1;
        self.changing().add_rule(rule)?;
        if let Some(before) = self.rules_before.as_mut().filter(|rules| !rules.contains(rule)) {
            // As in the kernel, a new rule comes after those of the same priority.
            let place = before.partition_point(|other| other.priority <= rule.priority);
            before.insert(place, rule.clone());
        }
        Ok(())
    }

    fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        self.version += 1;
        self.changing().remove_rule(rule)?;
        if let Some(before) = &mut self.rules_before {
            before.retain(|other| other != rule);
        }
        Ok(())
    }
}
