"""Scans one listener with sslyze and prints what it found as one line of JSON. Needs the packages of requirements.txt.

usage: sslyze_scan.py PORT ROOT PROFILE...
  PORT     of the listener at 127.0.0.1, which is addressed as `localhost`
  ROOT     the trusted root certificate
  PROFILE  a profile of Mozilla, such as `intermediate`, whose breaches are reported; sslyze contains the profiles
"""

import json
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")  # of `cryptography`, about roots in the trust stores of sslyze

import sslyze  # noqa: E402
from sslyze.mozilla_tls_profile import tls_config_checker as mozilla  # noqa: E402

VERSIONS = {"SSLv2": "ssl_2_0", "SSLv3": "ssl_3_0", "TLSv1.0": "tls_1_0", "TLSv1.1": "tls_1_1", "TLSv1.2": "tls_1_2",
            "TLSv1.3": "tls_1_3"}


def scan(port, root):
    """Runs every check of sslyze, and raises if one could not run."""
    scanner = sslyze.Scanner()
    scanner.queue_scans([sslyze.ServerScanRequest(
        server_location=sslyze.ServerNetworkLocation(hostname="localhost", port=port, ip_address="127.0.0.1"),
        scan_commands_extra_arguments=sslyze.ScanCommandsExtraArguments(
            certificate_info=sslyze.CertificateInfoExtraArgument(custom_ca_file=root)),
    )])
    done = next(iter(scanner.get_results()))
    if done.scan_result is None:
        raise RuntimeError(f"no connection: {done.connectivity_error_trace}")
    for command in sslyze.ScanCommand:
        attempt = getattr(done.scan_result, command.value)
        if attempt.status != sslyze.ScanCommandAttemptStatusEnum.COMPLETED:
            raise RuntimeError(f"{command.value}: {attempt.error_reason} {attempt.error_trace}")
    return done


def facts(result):
    """Returns what the checks found, as plain values. Resumption is not here: sslyze takes the new ticket that a server sends with a
    resumed session as a sign that the client's was ignored."""
    def of(command):
        return getattr(result, command).result

    def suites(prefix):
        return sorted(accepted.cipher_suite.name for accepted in of(f"{prefix}_cipher_suites").accepted_cipher_suites)

    hsts = of("http_headers").strict_transport_security_header
    return {
        "versions": {version: names for version, prefix in VERSIONS.items() if (names := suites(prefix))},
        "groups": sorted(curve.name for curve in of("elliptic_curves").supported_curves or []),
        "heartbleed": of("heartbleed").is_vulnerable_to_heartbleed,
        "ccs_injection": of("openssl_ccs_injection").is_vulnerable_to_ccs_injection,
        "robot": of("robot").robot_result.value,
        "secure_renegotiation": of("session_renegotiation").supports_secure_renegotiation,
        "client_renegotiation": of("session_renegotiation").is_vulnerable_to_client_renegotiation_dos,
        "compression": of("tls_compression").supports_compression,
        "fallback_scsv": of("tls_fallback_scsv").supports_fallback_scsv,
        "extended_master_secret": of("tls_extended_master_secret").supports_ems_extension,
        "early_data": of("tls_1_3_early_data").supports_early_data,
        "hsts_seconds": hsts and hsts.max_age,
        "certificates": [chain(deployment) for deployment in of("certificate_info").certificate_deployments],
    }


def chain(deployment):
    """Returns what sslyze found about one chain; `trusted` covers the signatures up to the root, the dates, and the name."""
    supplied = [outcome for outcome in deployment.path_validation_results if outcome.trust_store.name == "Supplied CA file"]
    return {
        "key": type(deployment.received_certificate_chain[0].public_key()).__name__,
        "length": len(deployment.received_certificate_chain),
        "ordered": deployment.received_chain_has_valid_order,
        "has_root": deployment.received_chain_contains_anchor_certificate,
        "sha1": deployment.verified_chain_has_sha1_signature,
        "trusted": [outcome.was_validation_successful for outcome in supplied] == [True],
        "ocsp_response": deployment.ocsp_response is not None,
    }


def breaches(done, name):
    """Returns what a profile of Mozilla forbids. sslyze itself does not compare the `max-age` of HSTS."""
    profile = mozilla.MozillaTlsConfiguration.get(mozilla.TlsConfigurationEnum(name))
    found = {}
    try:
        mozilla.check_server_against_tls_configuration(done, profile)
    except mozilla.ServerNotCompliantWithTlsConfiguration as error:
        found.update(error.issues)
    hsts = done.scan_result.http_headers.result.strict_transport_security_header
    if not hsts or (hsts.max_age or 0) < profile.hsts_min_age:
        found["hsts_min_age"] = f"max-age of {hsts and hsts.max_age}, should be at least {profile.hsts_min_age}."
    return found


result = scan(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
print(json.dumps({**facts(result.scan_result), "breaches": {name: breaches(result, name) for name in sys.argv[3:]}}))
