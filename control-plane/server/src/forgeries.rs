//! Leases that nodes used without ever getting them: which of them are news. A node that means harm can
//! send as many as it likes, and the record is for people.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use gristmill_protocol::{JobId, NodeId, Timestamp};

/// How long a job counts as told.
const PERIOD: Duration = Duration::from_mins(10);
/// Jobs of one node that are told in one period.
const JOBS_MAX: usize = 16;

#[derive(Debug)]
struct Told {
    since: Timestamp,
    jobs: HashSet<JobId>,
}

/// What was told of each node lately.
#[derive(Debug, Default)]
pub struct Forgeries {
    nodes: Mutex<HashMap<NodeId, Told>>,
}

impl Forgeries {
    /// Whether it is to be told that the node used a lease of this job; then it counts as told.
    pub(crate) fn is_news(&self, node: NodeId, job: JobId, now: Timestamp) -> bool {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Told { since: now, jobs: HashSet::new() };
        let told = nodes.entry(node).or_insert_with(fresh);
        if now.duration_since(told.since).unsigned_abs() >= PERIOD {
            *told = fresh();
        }
        told.jobs.len() < JOBS_MAX && told.jobs.insert(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_of_a_node_is_news_once_in_a_period_and_no_node_hides_another() {
        let forgeries = Forgeries::default();
        let at = |s| Timestamp::from_second(s).expect("in range");
        let node = |number| NodeId::from_parts(1, [number; 10]);
        let job = |number: u8| JobId::from_parts(2, [number; 10]);
        assert!(forgeries.is_news(node(1), job(0), at(0)));
        assert!(!forgeries.is_news(node(1), job(0), at(599)));
        let told = (0..=u8::MAX).filter(|number| forgeries.is_news(node(1), job(*number), at(599))).count();
        assert_eq!(told, JOBS_MAX - 1);
        assert!(forgeries.is_news(node(2), job(0), at(599)), "another node has a count of its own");
        assert!(forgeries.is_news(node(1), job(0), at(600)));
    }
}
