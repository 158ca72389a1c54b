//! Runs all models, one after another.

macro_rules! models {
    ($($module:ident: $($model:ident)*;)*) => {
        $(mod $module {
            $(
                #[test]
                fn $model() {
                    family_alloc_models::models::$module::$model();
                }
            )*
        })*
    };
}

models! {
    bin: slots_pass_through_the_depot the_depot_is_emptied_meanwhile fresh_slots_go_back pages_go_back_meanwhile slots_come_back_while_pages_go pages_go_back_twice
        purged_slots_are_handed_out_meanwhile units_go_back_meanwhile;
    counts: a_free_is_seen_with_its_slot a_counted_free_is_seen_with_its_slot an_exchange_is_seen_whole;
    directory: who_sees_a_tag_finds_the_header who_sees_a_region_sees_the_stretch who_is_told_sees_the_table
        who_finds_a_piece_may_look_into_it;
    exit: caches_change_hands the_last_free_is_elsewhere the_peak_counts_everyone;
    handlers: faults_are_told crossings_are_told waiting_is_told;
    heaps: a_dead_heap_serves_nobody a_thread_goes_on_to_the_next_heap a_reference_finds_no_other_heap
        a_cache_takes_a_block_or_the_heap_ends an_orphan_ends_with_its_last_block an_orphan_comes_after_its_last_handle depots_come_while_a_heap_is_used
        two_threads_end_an_orphan;
    limits: who_settles_last_is_right a_limit_is_set_while_there_is_none a_lower_limit_is_set;
    lock: excludes_and_publishes wakes_every_sleeper;
    registry: two_families_at_once one_family_by_two_threads depots_come_with_the_number;
    reset: what_is_claimed_is_waited_for caches_of_others_are_emptied;
    slab: a_unit_changes_its_class wrong_frees_are_found_meanwhile;
    states: the_second_free_is_told the_second_free_of_the_last_slot_is_told nobody_gets_the_slot_twice;
    stats: numbers_are_plausible_at_any_moment;
}
