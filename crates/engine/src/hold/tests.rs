//! What the hold tables promise, by example and against a dumb oracle: a map of single blocks.

use super::*;
use crate::units::SiteId;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(time: u64, site: SiteId) -> Stamp {
    Stamp { time, site }
}

fn older() -> Stamp {
    at(1, SiteId::A)
}

fn newer() -> Stamp {
    at(2, SiteId::A)
}

fn blocks(start: u64, count: u64) -> Extent {
    Extent::new(Lba(start), count).expect("a test's extent")
}

fn ignore(_: Stamp, _: Extent) {}

fn indexed(entries: &[(Stamp, Extent)]) -> IndexedTable {
    let mut table = IndexedTable::new();
    for &(stamp, extent) in entries {
        table.insert(stamp, extent, &mut ignore);
        table.check().unwrap();
    }
    table
}

fn pieces_of(table: &impl HoldTable, extent: Extent) -> Vec<(u64, u64, Option<Stamp>)> {
    let mut pieces = vec![Piece { extent: blocks(7, 7), stamp: None }];
    table.lookup(extent, &mut pieces);
    pieces.iter().map(|piece| (piece.extent.start().0, piece.extent.end().0, piece.stamp)).collect()
}

#[test]
fn worked_example_of_e1_5_leaves_1000_plus_20_and_1120_plus_80() {
    let (long, short) = ((older(), blocks(1000, 200)), (newer(), blocks(1020, 100)));
    let expected = [(older(), blocks(1000, 20)), (older(), blocks(1120, 80)), (newer(), blocks(1020, 100))];
    for arrivals in [[long, short], [short, long]] {
        let table = indexed(&arrivals);
        assert_eq!(table.records(), expected);
        assert_eq!(table.held_blocks(), 200);
        assert_eq!(table.map(), [blocks(1000, 200)]);
    }
}

/// One shape of overlap: what 100..200, held, and an arriving entry make of each other. The runs are the
/// held entry's and the arriving entry's when all is done.
struct Shape {
    name: &'static str,
    arriving: (u64, u64),
    arriving_is_newer: bool,
    held_left: &'static [(u64, u64)],
    arriving_left: &'static [(u64, u64)],
}

const SHAPES: [Shape; 22] = [
    // The arriving entry is newer: the held one shrinks, splits or vanishes.
    shape("newer ends where held starts", (50, 100), true, &[(100, 200)], &[(50, 100)]),
    shape("newer starts where held ends", (200, 250), true, &[(100, 200)], &[(200, 250)]),
    shape("newer takes the head from before", (50, 150), true, &[(150, 200)], &[(50, 150)]),
    shape("newer takes the head exactly", (100, 150), true, &[(150, 200)], &[(100, 150)]),
    shape("newer splits", (120, 180), true, &[(100, 120), (180, 200)], &[(120, 180)]),
    shape("newer takes the tail exactly", (150, 200), true, &[(100, 150)], &[(150, 200)]),
    shape("newer takes the tail to beyond", (150, 250), true, &[(100, 150)], &[(150, 250)]),
    shape("newer equals", (100, 200), true, &[], &[(100, 200)]),
    shape("newer covers from before", (50, 200), true, &[], &[(50, 200)]),
    shape("newer covers to beyond", (100, 250), true, &[], &[(100, 250)]),
    shape("newer covers on both sides", (50, 250), true, &[], &[(50, 250)]),
    // The arriving entry is older: it shrinks, splits or is dropped whole.
    shape("late ends where held starts", (50, 100), false, &[(100, 200)], &[(50, 100)]),
    shape("late starts where held ends", (200, 250), false, &[(100, 200)], &[(200, 250)]),
    shape("late loses its tail", (50, 150), false, &[(100, 200)], &[(50, 100)]),
    shape("late within the head is dropped", (100, 150), false, &[(100, 200)], &[]),
    shape("late within is dropped", (120, 180), false, &[(100, 200)], &[]),
    shape("late within the tail is dropped", (150, 200), false, &[(100, 200)], &[]),
    shape("late loses its head", (150, 250), false, &[(100, 200)], &[(200, 250)]),
    shape("late equal is dropped", (100, 200), false, &[(100, 200)], &[]),
    shape("late keeps what comes before", (50, 200), false, &[(100, 200)], &[(50, 100)]),
    shape("late keeps what comes behind", (100, 250), false, &[(100, 200)], &[(200, 250)]),
    shape("late is split", (50, 250), false, &[(100, 200)], &[(50, 100), (200, 250)]),
];

const fn shape(
    name: &'static str,
    arriving: (u64, u64),
    arriving_is_newer: bool,
    held_left: &'static [(u64, u64)],
    arriving_left: &'static [(u64, u64)],
) -> Shape {
    Shape { name, arriving, arriving_is_newer, held_left, arriving_left }
}

#[test]
fn every_shape_of_overlap_trims_exactly_the_overlapped_blocks_of_the_older() {
    for shape in &SHAPES {
        let held = run(100, 200);
        let arriving = run(shape.arriving.0, shape.arriving.1);
        // By time, and by site at equal times: A comes first, so B's write wins (E1.4).
        let orders = [(at(1, SiteId::B), at(2, SiteId::A)), (at(1, SiteId::A), at(1, SiteId::B))];
        for (less, greater) in orders {
            let (stamp_held, stamp_arriving) =
                if shape.arriving_is_newer { (less, greater) } else { (greater, less) };
            let mut table = indexed(&[(stamp_held, held)]);
            let mut met = Vec::new();
            table.insert(stamp_arriving, arriving, &mut |stamp, extent| met.push((stamp, extent)));
            let left = |stamp: Stamp| -> Vec<(u64, u64)> {
                let of_stamp = table.records().into_iter().filter(|(owner, _)| *owner == stamp);
                of_stamp.map(|(_, extent)| (extent.start().0, extent.end().0)).collect()
            };
            assert_eq!(left(stamp_held), shape.held_left, "held entry, {}", shape.name);
            assert_eq!(left(stamp_arriving), shape.arriving_left, "arriving entry, {}", shape.name);
            let overlap: Vec<_> =
                held.intersection(arriving).map(|both| (stamp_held, both)).into_iter().collect();
            assert_eq!(met, overlap, "report, {}", shape.name);
            table.check().unwrap_or_else(|what| panic!("{what}, {}", shape.name));
        }
    }
}

#[test]
fn equal_times_are_won_by_the_site_without_priority_in_either_order_of_arrival() {
    let (of_a, of_b) = ((at(5, SiteId::A), blocks(0, 8)), (at(5, SiteId::B), blocks(4, 8)));
    for arrivals in [[of_a, of_b], [of_b, of_a]] {
        let table = indexed(&arrivals);
        assert_eq!(pieces_of(&table, blocks(0, 12)), [(0, 4, Some(of_a.0)), (4, 12, Some(of_b.0))]);
    }
}

#[test]
fn late_entry_that_newer_ones_cover_whole_is_dropped() {
    let table = indexed(&[
        (at(8, SiteId::A), blocks(0, 10)),
        (at(9, SiteId::B), blocks(10, 10)),
        (at(7, SiteId::A), blocks(5, 10)),
    ]);
    assert_eq!(table.records(), [(at(8, SiteId::A), blocks(0, 10)), (at(9, SiteId::B), blocks(10, 10))]);
}

#[test]
fn entry_across_older_and_newer_pieces_takes_the_older_and_spares_the_newer() {
    let mut table = indexed(&[
        (at(1, SiteId::A), blocks(0, 10)),
        (at(9, SiteId::A), blocks(15, 5)),
        (at(2, SiteId::B), blocks(20, 10)),
        (at(8, SiteId::B), blocks(30, 10)),
    ]);
    let mut met = Vec::new();
    table.insert(at(5, SiteId::A), blocks(5, 30), &mut |stamp, extent| met.push((stamp, extent)));
    assert_eq!(
        met,
        [
            (at(1, SiteId::A), blocks(5, 5)),
            (at(9, SiteId::A), blocks(15, 5)),
            (at(2, SiteId::B), blocks(20, 10)),
            (at(8, SiteId::B), blocks(30, 5)),
        ]
    );
    assert_eq!(
        table.records(),
        [
            (at(1, SiteId::A), blocks(0, 5)),
            (at(5, SiteId::A), blocks(5, 10)),
            (at(5, SiteId::A), blocks(20, 10)),
            (at(8, SiteId::B), blocks(30, 10)),
            (at(9, SiteId::A), blocks(15, 5)),
        ]
    );
    assert_eq!(table.held_blocks(), 40);
}

#[test]
fn retired_entry_gives_its_own_blocks_to_the_store_and_leaves_the_newer_ones() {
    let (long, short) = ((older(), blocks(1000, 200)), (newer(), blocks(1020, 100)));
    for kind in [TableKind::Indexed, TableKind::Plain] {
        let mut table = Table::new(kind);
        assert_eq!(table.kind(), kind);
        table.insert(long.0, long.1, &mut ignore);
        table.insert(short.0, short.1, &mut ignore);
        table.retire(long.0, long.1);
        assert_eq!(
            pieces_of(&table, long.1),
            [(1000, 1020, None), (1020, 1120, Some(newer())), (1120, 1200, None)]
        );
        assert_eq!(table.map(), [short.1]);
        table.retire(short.0, short.1);
        assert_eq!(pieces_of(&table, long.1), [(1000, 1200, None)]);
        assert_eq!((table.held_blocks(), table.record_count()), (0, 0));
        assert!(table.map().is_empty());
    }
}

#[test]
fn retiring_an_entry_that_vanished_changes_nothing() {
    let mut table = indexed(&[(older(), blocks(10, 5)), (newer(), blocks(0, 20))]);
    table.retire(older(), blocks(10, 5));
    assert_eq!(table.records(), [(newer(), blocks(0, 20))]);
}

#[test]
fn entry_inserted_twice_is_held_once_and_meets_nothing_of_its_own() {
    for kind in [TableKind::Indexed, TableKind::Plain] {
        let mut table = Table::new(kind);
        table.insert(newer(), blocks(4, 4), &mut ignore);
        table.insert(newer(), blocks(4, 4), &mut |stamp, extent| panic!("met {stamp} {extent}"));
        assert_eq!(table.records(), [(newer(), blocks(4, 4))]);
        assert_eq!(table.held_blocks(), 4);
    }
}

#[test]
fn plain_table_keeps_records_as_they_came_in_order_of_stamp() {
    let mut table = PlainTable::new();
    table.insert(newer(), blocks(1020, 100), &mut ignore);
    table.insert(older(), blocks(1000, 200), &mut ignore);
    assert_eq!(table.records(), [(older(), blocks(1000, 200)), (newer(), blocks(1020, 100))]);
    assert_eq!(table.held_blocks(), 200);
}

#[test]
fn highest_addressable_block_can_be_held() {
    let last = blocks(u64::MAX / crate::units::BLOCK_BYTES - 1, 1);
    let table = indexed(&[(older(), last)]);
    assert_eq!(pieces_of(&table, last), [(last.start().0, last.end().0, Some(older()))]);
}

/// How many blocks the generated volumes have: few, so that entries meet.
const VOLUME: u64 = 64;

/// One step of a generated history, in order of arrival.
#[derive(Clone, Debug)]
enum Step {
    /// Time above the cut, site, extent.
    Insert(u64, SiteId, Extent),
    /// Move the cut on by this much and retire everything up to it.
    Retire(u64),
}

fn any_extent() -> impl Strategy<Value = Extent> {
    (0..VOLUME, 1..=24u64).prop_map(|(start, count)| blocks(start, count.min(VOLUME - start)))
}

fn any_site() -> impl Strategy<Value = SiteId> {
    prop_oneof![Just(SiteId::A), Just(SiteId::B)]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..12u64, any_site(), any_extent())
            .prop_map(|(time, site, extent)| Step::Insert(time, site, extent)),
        1 => (1..8u64).prop_map(Step::Retire),
    ]
}

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..80)
}

/// The oracle: the greatest stamp of each block.
#[derive(Default)]
struct Blocks(BTreeMap<u64, Stamp>);

impl Blocks {
    fn insert(&mut self, stamp: Stamp, extent: Extent) -> Vec<(u64, Stamp)> {
        let mut met = Vec::new();
        for block in extent.start().0..extent.end().0 {
            let owner = self.0.entry(block).or_insert(stamp);
            if *owner != stamp {
                met.push((block, *owner));
            }
            *owner = stamp.max(*owner);
        }
        met
    }

    fn retire(&mut self, stamp: Stamp) {
        self.0.retain(|_, owner| *owner != stamp);
    }
}

fn agree(blocks_held: &Blocks, table: &impl HoldTable, windows: &[Extent]) -> Result<(), TestCaseError> {
    table.check().map_err(TestCaseError::fail)?;
    for &window in windows {
        let mut pieces = Vec::new();
        table.lookup(window, &mut pieces);
        let mut next = window.start();
        for piece in &pieces {
            prop_assert_eq!(piece.extent.start(), next, "a gap or an overlap in the answer");
            next = piece.extent.end();
            for block in piece.extent.start().0..next.0 {
                prop_assert_eq!(piece.stamp, blocks_held.0.get(&block).copied(), "block {}", block);
            }
        }
        prop_assert_eq!(next, window.end(), "the answer covers exactly the question");
        prop_assert!(pieces.windows(2).all(|two| two[0].stamp != two[1].stamp), "neighbours are joined");
    }
    prop_assert_eq!(table.held_blocks(), blocks_held.0.len() as u64);
    let mapped: Vec<u64> = table.map().iter().flat_map(|extent| extent.start().0..extent.end().0).collect();
    prop_assert_eq!(mapped, blocks_held.0.keys().copied().collect::<Vec<_>>());
    prop_assert!(table.map().windows(2).all(|two| two[0].end() < two[1].start()), "runs are joined");
    let records = table.records();
    prop_assert_eq!(records.len(), table.record_count());
    prop_assert!(records.windows(2).all(|two| two[0] < two[1]), "records ascend");
    Ok(())
}

/// Runs a history against both tables and the oracle, comparing after each step.
fn history_agrees(steps: Vec<Step>, window: Extent) -> Result<(), TestCaseError> {
    let (mut blocks_held, mut indexed, mut plain) =
        (Blocks::default(), Table::new(TableKind::Indexed), Table::new(TableKind::Plain));
    let mut entries: BTreeMap<Stamp, Extent> = BTreeMap::new();
    let mut cut = 0;
    for step in steps {
        match step {
            Step::Insert(above, site, extent) => {
                let stamp = at(cut + above, site);
                // A stamp is issued once: a second draw of it is the same entry, resent.
                let extent = *entries.entry(stamp).or_insert(extent);
                let expected = blocks_held.insert(stamp, extent);
                for table in [&mut indexed, &mut plain] {
                    let mut met = Vec::new();
                    table.insert(stamp, extent, &mut |owner, overlapped| {
                        met.extend((overlapped.start().0..overlapped.end().0).map(|block| (block, owner)));
                    });
                    prop_assert_eq!(&met, &expected, "what {:?} met", table.kind());
                }
            }
            Step::Retire(by) => {
                cut += by;
                let kept = entries.split_off(&at(cut + 1, SiteId::A));
                for (stamp, extent) in std::mem::replace(&mut entries, kept) {
                    blocks_held.retire(stamp);
                    indexed.retire(stamp, extent);
                    plain.retire(stamp, extent);
                    agree(&blocks_held, &indexed, &[window])?;
                    agree(&blocks_held, &plain, &[window])?;
                }
            }
        }
        let windows = [window, blocks(0, VOLUME)];
        agree(&blocks_held, &indexed, &windows)?;
        agree(&blocks_held, &plain, &windows)?;
        prop_assert_eq!(plain.records(), entries.iter().map(|(&s, &e)| (s, e)).collect::<Vec<_>>());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn both_tables_answer_as_single_blocks_would(
        steps in any_history(),
        window in any_extent(),
    ) {
        history_agrees(steps, window)?;
    }

    #[test]
    fn same_entries_in_any_order_give_the_same_table(
        (one, other) in prop::collection::vec((1..10u64, any_site(), any_extent()), 1..40)
            .prop_map(|drawn| {
                let entries: BTreeMap<_, _> =
                    drawn.into_iter().map(|(time, site, extent)| (at(time, site), extent)).collect();
                entries.into_iter().collect::<Vec<_>>()
            })
            .prop_flat_map(|entries| (Just(entries.clone()).prop_shuffle(), Just(entries).prop_shuffle())),
    ) {
        for kind in [TableKind::Indexed, TableKind::Plain] {
            let [first, second] = [&one, &other].map(|arrivals| {
                let mut table = Table::new(kind);
                for &(stamp, extent) in arrivals {
                    table.insert(stamp, extent, &mut ignore);
                }
                table
            });
            prop_assert_eq!(first.records(), second.records());
            prop_assert_eq!(first.map(), second.map());
            prop_assert_eq!(first.held_blocks(), second.held_blocks());
        }
    }
}

#[cfg(feature = "mutants")]
mod planted_bugs {
    //! Each bug planted in the indexed table is seen from outside it.

    use super::*;
    use crate::mutant::{Mutant, plant};

    fn with<T>(mutant: Mutant, run: impl FnOnce() -> T) -> T {
        plant(Some(mutant));
        let result = run();
        plant(None);
        result
    }

    #[test]
    fn oracle_of_single_blocks_catches_every_bug_planted_here() {
        let bugs = [
            Mutant::DropTieBreak,
            Mutant::TrimOneBlockTooFew,
            Mutant::LateArrivalCovers,
            Mutant::MapNotCleared,
        ];
        for bug in bugs {
            let config =
                ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..Default::default() };
            let mut runner = proptest::test_runner::TestRunner::new(config);
            let verdict = with(bug, || {
                runner.run(&(any_history(), any_extent()), |(steps, window)| history_agrees(steps, window))
            });
            assert!(verdict.is_err(), "{bug:?} went unseen");
        }
    }

    #[test]
    fn dropped_tie_break_lets_the_later_arrival_win() {
        let (of_a, of_b) = ((at(5, SiteId::A), blocks(0, 8)), (at(5, SiteId::B), blocks(0, 8)));
        with(Mutant::DropTieBreak, || {
            assert_eq!(indexed(&[of_b, of_a]).records(), [of_a]);
            assert_eq!(indexed(&[of_a, of_b]).records(), [of_b]);
        });
    }

    #[test]
    fn short_trim_leaves_the_last_overlapped_block_to_the_older() {
        let table = with(Mutant::TrimOneBlockTooFew, || {
            indexed(&[(older(), blocks(1000, 200)), (newer(), blocks(1020, 100))])
        });
        assert_eq!(
            table.records(),
            [(older(), blocks(1000, 20)), (older(), blocks(1119, 81)), (newer(), blocks(1020, 99))]
        );
    }

    #[test]
    fn late_arrival_covers_the_newer() {
        let table =
            with(Mutant::LateArrivalCovers, || indexed(&[(newer(), blocks(0, 8)), (older(), blocks(0, 8))]));
        assert_eq!(table.records(), [(older(), blocks(0, 8))]);
    }

    #[test]
    fn uncleared_map_still_shows_what_was_retired() {
        let mut table = indexed(&[(older(), blocks(0, 8))]);
        with(Mutant::MapNotCleared, || table.retire(older(), blocks(0, 8)));
        assert_eq!(table.map(), [blocks(0, 8)]);
    }
}
