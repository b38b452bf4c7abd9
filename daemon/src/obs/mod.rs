//! What the daemon says about itself: the log for people, the metrics for dashboards.

pub mod logging;
pub mod metrics;
