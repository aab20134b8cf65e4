//! Who may do what, against tables written by hand from the standards.

use super::*;

const ACCESSES: [Access; 5] = [Access::Exempt, Access::Look, Access::Read, Access::Write, Access::Control];
const BLOCKS: (u64, u64) = (100, 50);

/// What a nexus may do, one letter for each of [`ACCESSES`], to blocks that the reservation has.
type Row = (Nexus, &'static str);

fn agree(unit: &Unit, extent: Option<Extent>, rows: &[Row]) {
    for (by, expected) in rows {
        for (access, letter) in ACCESSES.into_iter().zip(expected.chars()) {
            let allowed = unit.tables.allows(*by, access, extent);
            assert_eq!(allowed, letter == 'y', "{by} {access:?} {extent:?}");
        }
    }
}

/// A test of a state, for all accesses: `y` where the command is served, `n` where it conflicts, in the order exempt,
/// look, read, write, control.
macro_rules! table {
    ($($test:ident: $requests:expr, $extent:expr => $rows:expr;)*) => {
        $(#[test]
        fn $test() {
            agree(&Unit::with(&$requests), $extent, &$rows);
        })*
    };
}

fn reserved(kind: ExtentKind) -> [(Nexus, Request); 1] {
    [(A1, extents(1, &[(kind, BLOCKS.0, BLOCKS.1)]))]
}

fn persistent(kind: PersistentKind) -> [(Nexus, Request); 3] {
    [(A1, register(1, 0, 10)), (B2, register(2, 0, 20)), (A1, pr_reserve(10, kind))]
}

fn within() -> Option<Extent> {
    Some(blocks(120, 1))
}

// SPC-2 5.5.1, tables 9 and 10; the third party as SCSI-2 9.2.12.3 has it.
table! {
    free_unit_serves_everybody: [], within() => [(A1, "yyyyy"), (B2, "yyyyy")];
    reserved_unit_serves_its_nexus:
        [(A1, reserve())], within() => [(A1, "yyyyy"), (B1, "ynnnn"), (A2, "ynnnn"), (B3, "ynnnn")];
    reserved_unit_asks_for_no_blocks: [(A1, reserve())], None => [(A1, "yyyyy"), (B2, "ynnnn")];
    unit_reserved_for_a_host_serves_all_its_nexuses_and_not_the_owner:
        [(A1, reserve_for(2))], within() => [(A1, "ynnnn"), (B1, "ynnnn"), (A2, "yyyyy"), (B2, "yyyyy"), (B3, "ynnnn")];
    unit_reserved_for_the_own_host_serves_its_other_nexus_too:
        [(A1, reserve_for(1))], within() => [(A1, "yyyyy"), (B1, "yyyyy"), (B3, "ynnnn")];
}

// SCSI-2 9.2.12.2.
table! {
    read_shared_extent_is_written_by_nobody:
        reserved(ExtentKind::ReadShared), within() => [(A1, "yyyny"), (B1, "yyynn"), (B2, "yyynn")];
    write_exclusive_extent_is_read_by_others:
        reserved(ExtentKind::WriteExclusive), within() => [(A1, "yyyyy"), (B1, "yyynn"), (B2, "yyynn")];
    read_exclusive_extent_is_written_by_others:
        reserved(ExtentKind::ReadExclusive), within() => [(A1, "yyyyy"), (B1, "yynyn"), (B2, "yynyn")];
    exclusive_extent_is_for_its_nexus:
        reserved(ExtentKind::ExclusiveAccess), within() => [(A1, "yyyyy"), (B1, "yynnn"), (B2, "yynnn")];
    extent_conflicts_where_one_block_overlaps_in_front:
        reserved(ExtentKind::ExclusiveAccess), Some(blocks(90, 11)) => [(A1, "yyyyy"), (B2, "yynnn")];
    extent_conflicts_where_one_block_overlaps_behind:
        reserved(ExtentKind::ExclusiveAccess), Some(blocks(149, 100)) => [(A1, "yyyyy"), (B2, "yynnn")];
    extent_conflicts_where_it_is_within:
        reserved(ExtentKind::ExclusiveAccess), Some(blocks(0, 1000)) => [(A1, "yyyyy"), (B2, "yynnn")];
    extent_leaves_the_block_in_front_alone:
        reserved(ExtentKind::ExclusiveAccess), Some(blocks(99, 1)) => [(A1, "yyyyy"), (B2, "yyyyn")];
    extent_leaves_the_block_behind_alone:
        reserved(ExtentKind::ExclusiveAccess), Some(blocks(150, 1)) => [(A1, "yyyyy"), (B2, "yyyyn")];
    extent_leaves_what_touches_no_block_alone:
        reserved(ExtentKind::ExclusiveAccess), None => [(A1, "yyyyy"), (B2, "yyyyn")];
    write_and_read_exclusive_of_two_split_the_rights:
        [(A1, extents(1, &[(ExtentKind::WriteExclusive, 100, 50)])), (B2, extents(1, &[(ExtentKind::ReadExclusive, 100, 50)]))],
        within() => [(A1, "yynyn"), (B2, "yyynn"), (B3, "yynnn")];
    read_shared_of_two_is_read_by_all:
        [(A1, extents(1, &[(ExtentKind::ReadShared, 100, 50)])), (B2, extents(1, &[(ExtentKind::ReadShared, 100, 50)]))],
        within() => [(A1, "yyynn"), (B2, "yyynn"), (B3, "yyynn")];
    extents_for_a_host_keep_their_owner_out:
        [(A1, Request::Reserve { third_party: Some(HostId(2)), extents: Some(Extents { id: 1, claims: vec![
            Claim { kind: ExtentKind::ExclusiveAccess, extent: blocks(100, 50) }] }) })],
        within() => [(A1, "yynnn"), (A2, "yyyyy"), (B2, "yyyyy"), (B3, "yynnn")];
}

// SPC-4 5.13.1, table 65: holder, another registrant, the holder's other nexus (not registered), a stranger.
table! {
    registrations_alone_keep_nobody_out:
        [(A1, register(1, 0, 10))], within() => [(A1, "yyyyy"), (B3, "yyyyy")];
    write_exclusive:
        persistent(PersistentKind::WriteExclusive), within() => [(A1, "yyyyy"), (B2, "yyynn"), (B1, "yyynn"), (B3, "yyynn")];
    exclusive_access:
        persistent(PersistentKind::ExclusiveAccess), within() => [(A1, "yyyyy"), (B2, "yynnn"), (B1, "yynnn"), (B3, "yynnn")];
    write_exclusive_registrants_only:
        persistent(PersistentKind::WriteExclusiveRegistrants), within() => [(A1, "yyyyy"), (B2, "yyyyy"), (B1, "yyynn"), (B3, "yyynn")];
    exclusive_access_registrants_only:
        persistent(PersistentKind::ExclusiveAccessRegistrants), within() => [(A1, "yyyyy"), (B2, "yyyyy"), (B1, "yynnn"), (B3, "yynnn")];
    write_exclusive_all_registrants:
        persistent(PersistentKind::WriteExclusiveAll), within() => [(A1, "yyyyy"), (B2, "yyyyy"), (B1, "yyynn"), (B3, "yyynn")];
    exclusive_access_all_registrants:
        persistent(PersistentKind::ExclusiveAccessAll), within() => [(A1, "yyyyy"), (B2, "yyyyy"), (B1, "yynnn"), (B3, "yynnn")];
    persistent_reservation_asks_for_no_blocks:
        persistent(PersistentKind::ExclusiveAccess), None => [(A1, "yyyyy"), (B2, "yynnn"), (B3, "yynnn")];
}

#[test]
fn unit_is_free_where_nothing_is_reserved() {
    assert!(Unit::default().tables.is_free());
    assert!(Unit::with(&[(A1, register(1, 0, 10))]).tables.is_free());
    assert!(!Unit::with(&[(A1, reserve())]).tables.is_free());
    assert!(!Unit::with(&reserved(ExtentKind::ReadShared)).tables.is_free());
    for kind in PersistentKind::ALL {
        assert!(!Unit::with(&persistent(kind)).tables.is_free());
    }
}
