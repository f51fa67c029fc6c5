//! Documents as text. Pure: what is printed depends on the document only, whoever answered.

mod event;
mod inspection;
mod plan;
mod run;
mod table;

pub(crate) use self::{
    event::event,
    inspection::inspection,
    plan::{check, plan, steps},
    run::runs,
    table::{instances, state, table},
};
