//! What the daemon says about itself: log and metrics.

pub mod logging;
