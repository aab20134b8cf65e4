//! iSCSI (RFC 7143): target and a small initiator. BOUNDARY FILE: signatures agreed, bodies to be written.
