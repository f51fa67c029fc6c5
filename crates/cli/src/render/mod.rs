//! Renders documents as text. Pure: the text depends on the document only.

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
