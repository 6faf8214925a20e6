//! Known answers: the trace of RFC 8448 section 3. It does not cover the other suites and key updates; their answers
//! were computed with Python's `hmac` and `cryptography`, which also reproduce those of the RFC.

use tollgate::record::{Content, ContentType, Opened, Opener, Sealed, Sealer, Suite, TrafficSecret};

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const SERVER_KEY: &str = "9f02283b6c9c07efc26bb9f2ac92e356";
const SERVER_IV: &str = "cf782b88dd83549aadf1e984";

/// The server's `NewSessionTicket`, its first record under the application secret.
const TICKET: &str = "040000c90000001efad6aac502000000b22c035d829359ee5ff7af4ec9000000\
    00262a6494dc486d2c8a34cb33fa90bf1b0070ad3c498883c9367c09a2be785abc55cd226097a3a982117283f82a03\
    a143efd3ff5dd36d64e861be7fd61d2827db279cce145077d454a3664d4e6da4d29ee03725a6a4dafcd0fc67d2aea7\
    0529513e3da2677fa5906c5b3f7d8f92f228bda40dda721470f9fbf297b5aea617646fac5c03272e970727c621a791\
    41ef5f7de6505e5bfbc388e93343694093934ae4d3570008002a000400000400";
const TICKET_RECORD: &str = "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d4\
    1d6af8f6b580dcf3d11d63c758db289a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d\
    9da773b9ca7f2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b981be63439b2999ce1306461513\
    9891d5e4c5b406f16e3fc181a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac3\
    47d143f9605d64f650db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c815355\
    6b3b6c6779b37bf15985684f";
const CLIENT_DATA_RECORD: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b98\
    19a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const SERVER_DATA_RECORD: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30e\
    faf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_CLOSE_RECORD: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_CLOSE_RECORD: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn secret(text: &str) -> TrafficSecret {
    TrafficSecret::new(Suite::Aes128Gcm, &hex(text)).unwrap()
}

fn seal(sealer: &mut Sealer, content: ContentType, plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0; Sealer::sealed_max(plaintext.len())];
    let Sealed { taken, written } = sealer.seal(content, plaintext, &mut out).unwrap();
    assert_eq!(taken, plaintext.len());
    out.truncate(written);
    out
}

#[test]
fn the_sealer_reproduces_the_server_records_of_rfc_8448() {
    let mut sealer = Sealer::new(secret(SERVER_SECRET), 0);
    let data: Vec<u8> = (0..50).collect();
    assert_eq!(seal(&mut sealer, ContentType::Handshake, &hex(TICKET)), hex(TICKET_RECORD));
    assert_eq!(seal(&mut sealer, ContentType::ApplicationData, &data), hex(SERVER_DATA_RECORD));
    // The alerts of the RFC have the level "warning", like ours.
    let mut out = [0; 64];
    let written = sealer.alert(tollgate::record::Alert::CloseNotify, &mut out).unwrap();
    assert_eq!(out[..written], hex(SERVER_CLOSE_RECORD));
}

#[test]
fn the_opener_opens_the_client_records_of_rfc_8448() {
    let mut opener = Opener::new(secret(CLIENT_SECRET), 0);
    let mut buffer = [hex(CLIENT_DATA_RECORD), hex(CLIENT_CLOSE_RECORD)].concat();
    assert_eq!(opener.open(&mut buffer), Ok(Some(Opened { len: 72, content: Content::Data(5..55) })));
    assert!(buffer[5..55].iter().copied().eq(0..50));
    assert_eq!(opener.open(&mut buffer[72..]), Ok(Some(Opened { len: 24, content: Content::Closed })));
}

#[test]
fn a_secret_matches_only_its_own_key_and_iv() {
    let secret = secret(SERVER_SECRET);
    assert!(secret.gives(&hex(SERVER_KEY), &hex(SERVER_IV)));
    assert!(!secret.gives(&hex(SERVER_KEY), &hex(SERVER_KEY)[..12]));
    assert!(!secret.gives(&[0; 16], &hex(SERVER_IV)));
    assert!(!secret.gives(&[], &[]));
}

/// Three records for each suite, with the secret 0, 1, 2 and so on, starting at number 0x010203: the data `one`, a
/// `KeyUpdate` without a request, and the data `two` under the next secret.
const ANSWERS: [(Suite, [&str; 3]); 3] = [
    (
        Suite::Aes128Gcm,
        [
            "17030300146dcf44e6f2d0f66274801c326dd6263615dcecb1",
            "1703030016f7a9d6a44832c0743d271f9bc2f9d6ca393affb7e94f",
            "1703030014ae430071aac07e1a78a28856af9c5e63992fae76",
        ],
    ),
    (
        Suite::Aes256Gcm,
        [
            "1703030014bf1289a5f8710ea7cf4da3b3caa65f23d7d88218",
            "17030300169885a08e9e4e19fc060f3b8d33df781f1b6d1ffe62ff",
            "170303001458e2cc904e575872f2ff7f1f7b0c2f2c0c4eb4b9",
        ],
    ),
    (
        Suite::ChaCha20Poly1305,
        [
            "1703030014f8e2d265ced0b20dbf409cdc3f344a95c29b6541",
            "1703030016038d5d9abff1da03fc51b562047c67d35db78ad3daa9",
            "1703030014667c5eecf9a4e75c1972ecc0cc381f5f2ed72b5d",
        ],
    ),
];

#[test]
fn every_suite_matches_the_known_answers_across_a_key_update() {
    for (suite, records) in ANSWERS {
        let bytes: Vec<u8> = (0..48).take(suite.secret_len()).collect();
        let mut sealer = Sealer::new(TrafficSecret::new(suite, &bytes).unwrap(), 0x01_0203);
        let mut sent = seal(&mut sealer, ContentType::ApplicationData, b"one");
        sealer.update_key();
        sent.extend(seal(&mut sealer, ContentType::ApplicationData, b"two"));
        assert_eq!(sent, hex(&records.concat()), "{suite:?}");

        let mut opener = Opener::new(TrafficSecret::new(suite, &bytes).unwrap(), 0x01_0203);
        let (mut at, mut data) = (0, Vec::new());
        while let Some(opened) = opener.open(&mut sent[at..]).unwrap() {
            if let Content::Data(range) = opened.content {
                data.extend_from_slice(&sent[at..][range]);
            }
            at += opened.len;
        }
        assert_eq!(data, b"onetwo");
    }
}

#[test]
fn debug_output_does_not_contain_secrets() {
    let mut sealer = Sealer::new(secret(SERVER_SECRET), 0);
    let mut opener = Opener::new(secret(CLIENT_SECRET), 0);
    seal(&mut sealer, ContentType::ApplicationData, b"x");
    opener.open(&mut hex(CLIENT_DATA_RECORD)).unwrap();
    let shown = format!("{:?} {sealer:?} {opener:?}", secret(SERVER_SECRET));
    // The secret starts with the bytes 0xa1, 0x1a, 0xf9, which `Debug` would show as 161, 26, 249.
    assert!(!shown.contains("161") && !shown.contains("a11a") && !shown.contains("26, 249"), "{shown}");
    assert!(shown.contains("sequence: 1, awake: true"), "{shown}");
}

#[test]
fn a_secret_of_the_wrong_length_is_rejected() {
    for suite in Suite::ALL {
        for len in [0, 1, 31, 33, 47, 49, 64] {
            assert!(len == suite.secret_len() || TrafficSecret::new(suite, &vec![7; len]).is_none());
        }
    }
}
