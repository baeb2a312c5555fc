//! What a tenant keeps of its jobs that have ended, and which of them are beyond its ceilings.

use std::time::Duration;

use gristmill_protocol::tenancy::TenantRetention;

use crate::settings::Retention;

/// What one tenant keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// How long a job is kept after its end.
    pub job_ttl: Duration,
    /// How long the log of a job is kept after the job's end; never longer than the job.
    pub log_ttl: Duration,
    /// Most jobs that have ended.
    pub jobs_max: Option<u32>,
    /// Most bytes of their outputs and logs.
    pub bytes_max: Option<u64>,
}

impl Keep {
    /// The tenant's own policy where it has one, else the server's.
    pub fn of(server: &Retention, own: &TenantRetention) -> Self {
        let ttl = |own: Option<u64>, server| own.map_or(server, Duration::from_millis);
        let job_ttl = ttl(own.job_ttl_ms, server.job_ttl);
        Self {
            job_ttl,
            log_ttl: ttl(own.log_ttl_ms, server.log_ttl).min(job_ttl),
            jobs_max: own.jobs_max.or(server.jobs_tenant_max),
            bytes_max: own.bytes_max.or(server.bytes_tenant_max),
        }
    }

    /// The room below the ceilings; none without a ceiling.
    pub fn room(&self) -> Option<Room> {
        let has_ceiling = self.jobs_max.is_some() || self.bytes_max.is_some();
        has_ceiling.then(|| Room {
            jobs: self.jobs_max.map_or(u64::MAX, u64::from),
            bytes: self.bytes_max.unwrap_or(u64::MAX),
        })
    }
}

/// What is left below a tenant's ceilings while its jobs that have ended take their room, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    jobs: u64,
    bytes: u64,
}

impl Room {
    /// Gives room to the next older job, which holds so many bytes. `false` when there is too little: then
    /// this job goes, with every one that ended before it.
    pub fn take(&mut self, bytes: u64) -> bool {
        let left = self.jobs.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        if let Some((jobs, bytes)) = left {
            *self = Self { jobs, bytes };
        }
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    /// How many of jobs of these sizes, the newest first, a tenant keeps.
    fn kept(jobs_max: Option<u32>, bytes_max: Option<u64>, sizes: &[u64]) -> usize {
        let keep = Keep { job_ttl: DAY, log_ttl: DAY, jobs_max, bytes_max };
        let Some(mut room) = keep.room() else { return sizes.len() };
        sizes.iter().take_while(|bytes| room.take(**bytes)).count()
    }

    #[test]
    fn a_tenants_own_policy_comes_before_the_servers_field_by_field() {
        let server =
            Retention { jobs_tenant_max: Some(7), bytes_tenant_max: Some(1 << 30), ..Retention::default() };
        let same = Keep::of(&server, &TenantRetention::default());
        let expected =
            Keep { job_ttl: DAY * 30, log_ttl: DAY * 30, jobs_max: Some(7), bytes_max: Some(1 << 30) };
        assert_eq!(same, expected);
        let own =
            TenantRetention { job_ttl_ms: Some(60_000), jobs_max: Some(100), ..TenantRetention::default() };
        let minute = Duration::from_mins(1);
        let expected =
            Keep { job_ttl: minute, log_ttl: minute, jobs_max: Some(100), bytes_max: Some(1 << 30) };
        assert_eq!(Keep::of(&server, &own), expected, "no log is kept longer than its job");
        let own = TenantRetention { log_ttl_ms: Some(60_000), ..TenantRetention::default() };
        assert_eq!(Keep::of(&server, &own), Keep { log_ttl: minute, ..same });
    }

    #[test]
    fn the_newest_jobs_have_room_until_the_first_that_has_none() {
        assert_eq!(kept(None, None, &[u64::MAX; 3]), 3);
        assert_eq!(kept(Some(2), None, &[u64::MAX >> 2; 3]), 2);
        assert_eq!(kept(Some(3), None, &[0; 3]), 3);
        assert_eq!(kept(None, Some(10), &[4, 6, 0, 1, 0]), 3, "what is older than one that goes, goes too");
        assert_eq!(kept(None, Some(10), &[11, 1]), 0, "a ceiling holds for a single job");
        assert_eq!(kept(None, Some(0), &[0, 0, 1]), 2);
        assert_eq!(kept(Some(1), Some(10), &[4, 4]), 1);
        assert_eq!(kept(Some(5), Some(7), &[4, 4]), 1);
    }
}
