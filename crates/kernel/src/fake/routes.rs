use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::FakeKernel;
use crate::{KernelError, Routes};
use riklet_core::{
    model::InterfaceName,
    routing::{AnswerPath, HostRoute, NextHop, RoutingRule, UplinkRoute},
};

impl Routes for FakeKernel {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        Ok(self.observe().uplinks.clone())
    }

    fn default_interfaces(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        let system = self.observe();
        Ok(system.uplinks.iter().chain(system.next_hops.keys()).cloned().collect())
    }

    fn route_to(&mut self, to: IpAddr) -> Result<Option<HostRoute>, KernelError> {
        let system = self.observe();
        let matching = system.routes.iter().filter(|route| route.destination.contains(&to));
        Ok(matching.max_by_key(|route| route.destination.prefix_len()).cloned())
    }

    fn is_local(&mut self, address: IpAddr) -> Result<bool, KernelError> {
        Ok(!self.observe().absent_addresses.contains(&address))
    }

    fn routes(&mut self) -> Result<Vec<HostRoute>, KernelError> {
        Ok(self.list().routes.clone())
    }

    fn gateways(&mut self) -> Result<BTreeSet<Ipv4Addr>, KernelError> {
        let system = self.list();
        let found = system.next_hops.values().filter_map(|hop| match hop.gateway? {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        });
        Ok(found.collect())
    }

    fn answer_path(&mut self, from: Ipv4Net) -> Result<Option<AnswerPath>, KernelError> {
        Ok(self.observe().answer_paths.get(&from).cloned())
    }

    fn next_hop(&mut self, uplink: &InterfaceName) -> Result<Option<NextHop>, KernelError> {
        Ok(self.observe().next_hops.get(uplink).copied())
    }

    fn uplink_routes(
        &mut self,
        tables: &BTreeSet<u32>,
    ) -> Result<BTreeSet<UplinkRoute>, KernelError> {
        let system = self.observe();
        Ok(system.uplink_routes.iter().filter(|r| tables.contains(&r.table)).cloned().collect())
    }

    fn add_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        let refused = |source| KernelError::AddRoute { route: route.clone(), source };
        let mut system = self.effect().map_err(refused)?;
        system.uplink_routes.retain(|other| other.table != route.table);
        system.uplink_routes.insert(route.clone());
        Ok(())
    }

    fn remove_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        let refused = |source| KernelError::RemoveRoute { route: route.clone(), source };
        self.effect().map_err(refused)?.uplink_routes.remove(route);
        Ok(())
    }

    fn rules(&mut self) -> Result<Vec<RoutingRule>, KernelError> {
        Ok(self.observe().rules.clone())
    }

    fn add_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        let refused = |source| KernelError::AddRule { rule: rule.clone().into(), source };
        let mut system = self.effect().map_err(refused)?;
        if !system.rules.contains(rule) {
            // As in the kernel, a new rule comes after those of the same priority.
            let place = system.rules.partition_point(|other| other.priority <= rule.priority);
            system.rules.insert(place, rule.clone());
        }
        Ok(())
    }

    fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        let refused = |source| KernelError::RemoveRule { rule: rule.clone().into(), source };
        self.effect().map_err(refused)?.rules.retain(|other| other != rule);
        Ok(())
    }
}
