//! The list of the cases: each misuses a family, after it has said what must happen.

use crate::contents::*;
use crate::heaps::*;
use crate::layouts::*;
use crate::pointers::*;
use crate::resizes::*;
use crate::scopes::*;
use crate::subject::{Door, Try};
use crate::twice::*;
use crate::{Case, Guarded, GuardedOther, Plain, PlainOther, Sizes, Watched, WatchedOther};
use crate::{GuardedSpaced, GuardedSpacedOther, Spaced, SpacedOther, WatchedSpaced, WatchedSpacedOther};

macro_rules! cases {
    ($($name:ident in $sizes:ident $(by $door:ident)?;)*) => {
        &[$(Case {
            name: stringify!($name),
            sizes: Sizes::$sizes,
            only: &[$(Door::$door)?],
            bodies: [
                |door, size| $name(Try::<Plain, PlainOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<Watched, WatchedOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<Guarded, GuardedOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<Spaced, SpacedOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<WatchedSpaced, WatchedSpacedOther> { door, size, families: std::marker::PhantomData }),
                |door, size| $name(Try::<GuardedSpaced, GuardedSpacedOther> { door, size, families: std::marker::PhantomData }),
            ],
        }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    df_same_thread_immediate in All;
    df_same_thread_one_between in All;
    df_same_thread_delayed in All;
    df_after_flush_to_shared in All;
    df_two_remote_threads in All;
    df_owner_then_remote in All;
    df_remote_then_owner in All;
    df_racing_threads_same_instant in Slabs;
    df_after_owner_thread_exit in All;
    df_after_slab_reused_by_other_class in Slabs;
    stale_free_after_reuse in Slabs;
    stale_free_found_at_the_next in Slabs;
    size_wrong_class_smaller in All;
    size_wrong_class_larger in All;
    size_wrong_same_class_ok in Slabs by Allocator;
    size_off_by_one_at_every_class_edge in Edges;
    size_off_by_one_below_every_class_edge in Edges;
    size_small_as_large in Slabs;
    size_large_as_small in Large;
    size_large_as_other_large in Large;
    size_isize_max in All;
    size_overflow_round_up in All;
    align_wrong_on_dealloc in All;
    align_wrong_same_class_ok in All;
    overaligned_freed_as_default in Slabs;
    zero_size_dealloc_dangling in Slabs;
    family_wrong_same_class in All;
    family_wrong_from_remote_thread in All;
    family_wrong_after_owner_exit in All;
    family_clone_frees_sibling_ok in All;
    heap_wrong_heap in All by Allocator;
    heap_wrong_heap_from_remote_thread in All by Allocator;
    heap_freed_to_a_family in All;
    heap_dead_handle_free in All by Allocator;
    heap_dead_handle_free_with_a_cache in All by Allocator;
    heap_stale_generation_free in All by Allocator;
    heap_drop_racing_remote_free in All by Allocator;
    heap_free_after_reset in All by Allocator;
    heap_written_after_reset in Slabs by Allocator;
    spaced_heap_wrong_heap in All by Allocator;
    spaced_heap_freed_to_a_natural_one in All by Allocator;
    spaced_heap_dead_handle_free in All by Allocator;
    spaced_heap_dead_handle_free_with_a_cache in All by Allocator;
    spaced_heap_stale_generation_free in All by Allocator;
    spaced_heap_drop_racing_remote_free in All by Allocator;
    spaced_heap_free_after_reset in All by Allocator;
    spaced_heap_written_after_reset in SpacedSlabs by Allocator;
    spaced_heap_size_within_the_class in SpacedSlabs by Allocator;
    spaced_heap_size_of_the_next_class in SpacedSlabs by Allocator;
    spaced_heap_size_of_a_shorter_class in SpacedSlabs by Allocator;
    scope_double_free_outside in Slabs by Global;
    scope_double_free_in_another_scope in Slabs by Global;
    scope_double_free_on_remote_thread in Slabs by Global;
    scope_double_free_in_orphan in Slabs by Global;
    scope_free_after_heap_end in Slabs by Global;
    scope_free_of_wrong_class in Slabs by Global;
    spaced_scope_free_of_wrong_class in SpacedSlabs by Global;
    spaced_scope_own_free_of_wrong_class in SpacedSlabs by Global;
    spaced_scope_double_free_in_another_scope in SpacedSlabs by Global;
    spaced_scope_free_after_heap_end in SpacedSlabs by Global;
    scope_foreign_free in Slabs by Global;
    scope_home_block_freed_by_heap in Slabs by Global;
    scope_guard_forgotten in Slabs by Global;
    scope_guards_out_of_order in Slabs by Global;
    global_vs_family_mixup in All;
    foreign_stack in All;
    foreign_static in All;
    foreign_mmap in All;
    foreign_mmap_none in All;
    foreign_wild in All;
    foreign_null_page in All;
    foreign_high_bits in All;
    foreign_high_bits_then_trim in Slabs;
    free_into_metadata in Slabs;
    free_unused_slot_of_live_slab in Slabs;
    free_in_released_slab in Slabs;
    interior_plus_1 in All;
    interior_plus_1_then_trim in Slabs;
    interior_plus_16 in AboveAStep;
    interior_large_plus_page in Large;
    uninitialised_allocator_free in All;
    realloc_wrong_old_size in All;
    realloc_wrong_align in All;
    realloc_dangling in All;
    realloc_after_free in All;
    realloc_foreign in All;
    realloc_wrong_family in All;
    shrink_then_free_old_layout in AboveAStep;
    grow_then_free_old_layout in Slabs;
    alloc_zeroed_after_dirty_free in All;
    uaf_write in Slabs;
    uaf_write_link_word_local in Slabs;
    uaf_write_link_word_remote in Slabs;
    uaf_write_large in Large;
    uaf_read_no_stale_secret in Slabs;
    overflow_1 in Slack by Global;
    overflow_1_zero in Slack by Global;
    overflow_8 in Slack by Global;
    overflow_found_by_realloc in Slack by Global;
    overflow_into_freed_neighbour_192b in Line;
    overflow_past_large_1 in Large;
    underflow_before_large_1 in Large;
    underflow_into_header in Slabs;
    order_is_not_linear in Slabs;
};
