//! The conformance suite: every property that a store must have, run against each backend. A new
//! backend adds one `suite!` line.

/// Runs a list of properties on one kind of bench. Those under `alone` share one thread with the
/// writer, so that what is asked together reaches it together; those under `threads` race it.
macro_rules! properties {
    ($bench:expr, alone { $($module:ident :: $name:ident,)* } threads { $($tmodule:ident :: $tname:ident,)* }) => {
        $(
            #[tokio::test]
            async fn $name() {
                crate::$module::$name($bench).await;
            }
        )*
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $tname() {
                crate::$tmodule::$tname($bench).await;
            }
        )*
    };
}

macro_rules! suite {
    ($backend:ident, $bench:expr) => {
        mod $backend {
            properties! {
                $bench,
                alone {
                    store_submit::an_accepted_job_is_read_back_as_it_was_accepted,
                    store_submit::a_key_gives_the_same_job_for_the_same_request_only,
                    store_submit::a_key_survives_a_reopening_and_is_forgotten_when_pruned,
                    store_submit::the_depth_limit_over_all_tenants_counts_every_waiting_job,
                    store_submit::the_depth_limit_of_one_tenant_leaves_the_others_alone,
                    store_submit::a_retried_job_is_a_new_job_and_the_log_names_the_former,
                    store_submit::inline_blobs_of_a_job_belong_to_its_tenant_only,
                    store_submit::lists_are_newest_first_filtered_and_paged,
                    store_claim::higher_priority_goes_first_and_then_whoever_came_first,
                    store_claim::jobs_that_the_node_cannot_run_do_not_block_those_behind_them,
                    store_claim::a_job_is_never_leased_to_a_node_whose_isolation_is_weaker,
                    store_claim::a_claim_costs_the_same_however_long_the_queue_is,
                    store_claim::a_claim_takes_no_more_than_fits_into_its_room,
                    store_claim::a_zone_gets_only_jobs_that_it_admits,
                    store_claim::a_claim_for_one_job_gets_that_job_or_nothing,
                    store_claim::a_held_claim_gets_its_job_in_the_commit_that_accepts_it,
                    store_claim::held_claims_cost_nothing_while_there_is_no_work,
                    store_claim::a_held_claim_is_served_by_whatever_makes_a_job_ready,
                    store_claim::one_new_job_goes_to_one_of_many_held_claims,
                    store_claim::a_lease_for_a_claimer_that_went_away_is_given_back,
                    store_claim::a_claim_whose_first_choice_is_cancelled_beside_it_gets_the_next,
                    store_claim::the_fence_only_rises_also_over_a_restore,
                    store_lease::a_stale_lease_has_no_effect_anywhere,
                    store_lease::a_lease_is_worth_nothing_to_another_node_or_with_another_token,
                    store_lease::a_renewed_lease_lasts_its_full_time_from_the_renewal,
                    store_lease::a_sweep_that_read_before_a_renewal_does_not_end_the_lease,
                    store_lease::after_a_restart_every_live_lease_lasts_its_full_time,
                    store_lease::leases_of_a_former_incarnation_end_and_those_of_the_present_stay,
                    store_lease::the_sixth_lost_attempt_is_the_last,
                    store_lease::a_released_lease_does_not_count_as_an_attempt,
                    store_lease::a_lease_state_says_whether_the_guest_has_to_stop,
                    store_finish::the_same_report_again_is_accepted_and_changes_nothing,
                    store_finish::the_same_report_again_is_accepted_also_after_the_next_lease,
                    store_finish::a_report_without_a_start_implies_the_start,
                    store_finish::a_batch_of_updates_is_applied_in_its_order,
                    store_finish::a_report_keeps_what_the_guest_did_and_used,
                    store_finish::outputs_become_visible_with_the_success_and_belong_to_the_tenant,
                    store_finish::outputs_of_an_attempt_that_did_not_succeed_never_show,
                    store_finish::a_success_whose_outputs_cannot_all_be_kept_is_no_success,
                    store_finish::guest_failures_are_retried_as_the_job_asks,
                    store_finish::a_failure_that_nobody_named_is_not_retried,
                    store_finish::a_waiting_or_leased_job_is_cancelled_at_once,
                    store_finish::a_running_job_is_cancelled_when_its_guest_has_stopped,
                    store_finish::of_a_cancel_and_a_success_that_race_exactly_one_wins,
                    store_finish::a_report_brings_the_end_of_its_log,
                    store_sweep::a_job_that_waits_too_long_fails_with_queue_timeout,
                    store_sweep::a_deadline_fails_a_queued_job_and_stops_a_running_one,
                    store_sweep::a_cancel_after_the_deadline_still_cancels,
                    store_sweep::backoffs_end_one_page_after_the_other,
                    store_sweep::a_sweep_acts_only_on_what_is_still_due,
                    store_sweep::leases_expire_one_page_after_the_other_oldest_first,
                    store_log::an_append_is_placed_by_its_offset_and_repeated_without_harm,
                    store_log::streams_are_kept_apart_and_merge_in_the_order_of_arrival,
                    store_log::bytes_that_are_kept_elsewhere_are_named_with_what_to_skip,
                    store_log::any_bytes_survive,
                    store_retention::a_purged_job_leaves_nothing_behind_and_the_others_alone,
                    store_retention::a_job_is_kept_as_long_as_its_idempotency_key,
                    store_retention::jobs_that_ended_are_told_the_latest_first_with_what_they_hold,
                    store_retention::jobs_that_ended_at_once_go_in_the_order_of_their_numbers,
                    store_retention::a_log_goes_from_its_beginning_in_small_steps,
                    store_retention::events_are_kept_as_long_as_their_job,
                    store_retention::a_class_goes_with_its_last_job_and_its_number_is_not_given_again,
                    store_retention::a_blob_goes_only_when_nothing_refers_to_it,
                    store_retention::a_blob_that_was_said_to_be_there_stays_for_half_of_the_grace,
                    store_retention::a_job_whose_input_is_gone_is_refused,
                    store_retention::bytes_that_no_row_knows_are_told_from_the_others,
                    store_upload::an_upload_is_read_back_as_it_was_begun_and_moves_on_from_its_end_only,
                    store_upload::a_blob_is_visible_to_the_tenant_with_its_upload_and_not_before,
                    store_upload::the_room_of_a_tenant_counts_what_was_declared_and_what_has_come,
                    store_upload::uploads_are_listed_expire_and_are_forgotten,
                    store_schema::an_offset_cannot_be_taken_back,
                    store_schema::a_second_live_lease_of_a_job_cannot_be_written,
                    store_schema::a_final_state_cannot_be_left,
                    store_schema::a_fence_cannot_be_used_again,
                    store_schema::the_log_of_events_cannot_be_changed,
                    store_schema::a_job_that_has_not_ended_cannot_be_deleted,
                    store_schema::a_cancelled_job_cannot_be_written_as_succeeded,
                    store_events::events_tell_whom_they_concern_and_what_changed,
                    store_events::pages_follow_each_other_without_gap_or_overlap_under_every_condition,
                    store_events::a_page_says_what_is_still_kept,
                    store_events::a_gap_is_remembered_though_older_events_are_kept,
                    store_commit::a_transaction_has_few_statements_however_much_it_does,
                    store_commit::a_change_whose_caller_went_away_still_happens,
                    store_commit::a_closed_store_refuses_instead_of_hanging,
                    store_commit::a_process_killed_between_any_two_statements_loses_nothing_acknowledged,
                }
                threads {
                    store_submit::concurrent_submits_under_one_key_make_one_job,
                    store_claim::concurrent_claimers_never_get_the_same_job,
                    store_events::a_reader_beside_the_writer_misses_nothing,
                    store_commit::what_waits_together_is_committed_together,
                }
            }
        }
    };
}

suite!(sqlite, crate::backend::Bench::sqlite());
