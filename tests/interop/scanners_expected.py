"""What the scanners must find on each listener of the suite `scanners`, and the findings of testssl.sh that are accepted."""

import dataclasses

# The cipher suites by their names of IANA, which sslyze uses, with those of OpenSSL, which sslscan and testssl.sh use.
ECDSA = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
RSA = {
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
TLS13 = {name: name for name in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")}

# The groups of the key exchange by their names of sslyze, with those of sslscan and testssl.sh. X25519MLKEM768 is not here: the
# versions of the scanners that tests/run installs do not offer it.
GROUPS = {
    "X25519": ("x25519", "X25519"),
    "secp256r1": ("secp256r1 (NIST P-256)", "prime256v1"),
    "secp384r1": ("secp384r1 (NIST P-384)", "secp384r1"),
}


# The clients that testssl.sh simulates and that cannot connect, by its names: those without TLS 1.2, those with no suite of
# `RSA` above, and those without TLS 1.3.
SIMULATED = 35
NO_TLS12 = {"ie_6_xp", "ie_8_win7", "ie_8_xp", "java_7u25"}
NO_RSA = NO_TLS12 | {"ie_11_win7", "ie_11_win81", "ie_11_winphone81"}
NO_TLS13 = NO_RSA | {"android_60", "android_70", "android_81", "apple_mail_16_0", "edge_15_win10", "ie_11_win10", "java_8u161",
                     "libressl_283", "openssl_102e", "openssl_110l"}


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listener with a key of this kind, what it accepts, the profile of Mozilla that it keeps, and the simulated clients that
    cannot connect."""

    name: str
    key: str
    keys: dict
    versions: dict
    profile: str
    lost: set

    def iana(self):
        return {version: sorted(suites) for version, suites in self.versions.items()}

    def openssl(self):
        return {version: sorted(suites.values()) for version, suites in self.versions.items()}


LISTENERS = [
    Listener("TLS 1.2 and 1.3 with ECDSA", "ECDSA", {}, {"TLSv1.2": ECDSA, "TLSv1.3": TLS13}, "intermediate", NO_TLS12),
    Listener("TLS 1.2 and 1.3 with RSA", "RSA", {}, {"TLSv1.2": RSA, "TLSv1.3": TLS13}, "intermediate", NO_RSA),
    Listener("TLS 1.3 only", "ECDSA", {"tls_min_version": '"1.3"'}, {"TLSv1.3": TLS13}, "modern", NO_TLS13),
]

# The vulnerabilities, each of which testssl.sh must have checked with the result `OK`. It does not check for SWEET32, blocks of 64
# bits, if there is only TLS 1.3, which has none.
VULNERABILITIES = """heartbleed CCS ticketbleed ROBOT secure_renego secure_client_renego CRIME_TLS BREACH POODLE_SSL fallback_SCSV
FREAK DROWN LOGJAM LOGJAM-common_primes BEAST LUCKY13 RC4""".split()
VULNERABILITIES_TLS12 = [*VULNERABILITIES, "SWEET32"]

# What else testssl.sh must have found with the result `OK`.
SOUND = """SSLv2 SSLv3 TLS1_3 cipherlist_NULL cipherlist_aNULL cipherlist_EXPORT cipherlist_LOW cipherlist_STRONG PFS
protocol_negotiated cert_signatureAlgorithm cert_trust cert_chain_of_trust cert_expirationStatus HSTS_time
Content-Security-Policy X-Content-Type-Options""".split()

# Findings of testssl.sh that are neither `OK` nor `INFO`, with their severity and the reason why they are accepted.
ACCEPTED = {
    "cipher_order": ("HIGH", "The client's order decides, as in Mozilla's profiles `modern` and `intermediate`: each suite has "
                             "forward secrecy and AEAD, and a client without AES instructions gets ChaCha20."),
    "engine_problem": ("WARN", "It is about the OpenSSL of this machine, which has no GOST. The checks use sockets of their own."),
}
