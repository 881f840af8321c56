"""All promises of the contract of stores, in the order in which they are best tried: simple ones first."""

from __future__ import annotations

from . import reading, writing
from .promise import Promise

STORE_PROMISES = tuple(
    Promise.of(check)
    for check in (
        writing.what_was_written_is_read_back,
        writing.commit_and_stat_and_list_tell_the_same,
        writing.an_ingest_is_invisible_until_committed,
        writing.leaving_an_ingest_without_commit_discards_it,
        writing.an_exception_in_an_ingest_discards_it,
        writing.cancelling_an_ingest_discards_it,
        writing.the_first_commit_wins,
        writing.of_many_commits_under_one_id_exactly_one_wins,
        writing.an_empty_blob_is_a_blob,
        writing.many_buffers_of_every_kind_go_in_one_write,
        writing.a_buffer_may_be_reused_when_write_returns,
        writing.a_pack_of_64_mib_is_stored_in_many_writes,
        writing.many_ingests_run_at_once,
        writing.a_cancelled_write_lets_go_of_the_buffer,
        writing.a_cancelled_commit_leaves_all_or_nothing,
        writing.ids_at_the_limits_are_ids,
        reading.ranges_come_in_the_order_asked,
        reading.a_thousand_ranges_are_one_call,
        reading.no_ranges_are_no_bytes,
        reading.a_range_beyond_the_end_is_lost_data,
        reading.a_missing_blob_is_not_found,
        reading.a_deleted_blob_is_gone,
        reading.an_id_that_is_free_again_holds_new_bytes,
        reading.a_version_tells_two_blobs_of_one_id_apart,
        reading.upper_and_lower_case_are_two_ids,
        reading.a_folder_may_lose_its_last_blob_while_others_come,
        reading.a_read_beside_a_delete_gives_all_or_an_error,
        reading.a_list_is_in_the_order_of_ids,
        reading.a_list_starts_with_its_prefix,
        reading.a_list_goes_on_after_an_id,
        reading.a_list_beside_changes_gives_the_others_exactly_once,
        reading.a_list_may_be_left_early,
        reading.usage_follows_what_is_stored,
    )
)
