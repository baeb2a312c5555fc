//! What may follow each state, as one reviewed table.

use std::fmt::Write;

use gristmill_lifecycle::{
    attempt::{AttemptEvent, AttemptPhase},
    job::{JobEvent, JobPhase},
};

#[test]
fn every_job_phase_answers_every_event_as_reviewed() {
    let mut table = String::new();
    for phase in JobPhase::ALL {
        let _ = writeln!(table, "{phase} ({})", phase.state());
        for event in JobEvent::ALL {
            let next = phase.apply(*event).map_or("-".to_owned(), |next| next.to_string());
            let _ = writeln!(table, "    {:<16} {next}", format!("{event:?}"));
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_attempt_phase_answers_every_event_as_reviewed() {
    let mut table = String::new();
    for phase in AttemptPhase::ALL {
        let _ = writeln!(table, "{phase}");
        for event in AttemptEvent::ALL {
            let next = phase.apply(*event).map_or("-".to_owned(), |next| next.to_string());
            let _ = writeln!(table, "    {:<16} {next}", format!("{event:?}"));
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn terminal_phases_accept_no_event_and_every_other_phase_can_reach_one() {
    for phase in JobPhase::ALL {
        let next: Vec<_> = JobEvent::ALL.iter().filter_map(|event| phase.apply(*event).ok()).collect();
        assert_eq!(next.is_empty(), phase.is_terminal(), "{phase}");
        assert_eq!(phase.is_terminal(), phase.state().is_terminal(), "{phase}");
        let mut reached = vec![*phase];
        for index in 0.. {
            let Some(from) = reached.get(index).copied() else { break };
            for to in JobEvent::ALL.iter().filter_map(|event| from.apply(*event).ok()) {
                if !reached.contains(&to) {
                    reached.push(to);
                }
            }
        }
        assert!(reached.iter().any(|phase| phase.is_terminal()), "{phase}");
    }
}

#[test]
fn no_event_leads_from_an_asked_cancel_to_success() {
    let stopping: JobPhase = "stopping_cancel".parse().expect("is a phase");
    for event in JobEvent::ALL {
        if let Ok(next) = stopping.apply(*event) {
            assert!(next == stopping || next == JobPhase::Cancelled, "{event:?} leads to {next}");
        }
    }
}

#[test]
fn stored_texts_are_read_back() {
    for phase in JobPhase::ALL {
        assert_eq!(phase.as_str().parse(), Ok(*phase));
    }
    for phase in AttemptPhase::ALL {
        assert_eq!(phase.to_string().parse(), Ok(*phase));
        assert_eq!(phase.is_live(), phase.state().is_live());
    }
    assert!("sleeping".parse::<JobPhase>().is_err());
}
