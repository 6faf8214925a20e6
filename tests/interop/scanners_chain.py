"""Certificates as a public CA issues them: a root that clients trust, an intermediate, and leaves that it signs."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import leaks

NOW = datetime.datetime.now(datetime.timezone.utc)
KEYS = {"ECDSA": lambda: ec.generate_private_key(ec.SECP256R1()), "RSA": lambda: rsa.generate_private_key(65537, 2048)}


def usage(*uses):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in uses for name in names})


class Certificate:
    """A certificate and its key, signed by `issuer` or by itself."""

    def __init__(self, common_name, key, days, extensions, issuer=None):
        self.key = key
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        signer = issuer or self
        builder = (x509.CertificateBuilder().subject_name(self.name).issuer_name(signer.name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(NOW - datetime.timedelta(hours=1))
                   .not_valid_after(NOW + datetime.timedelta(days=days)))
        identifiers = [(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
                       (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False)]
        for extension, critical in [*extensions, *identifiers]:
            builder = builder.add_extension(extension, critical)
        self.pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Authority:
    """A root and an intermediate, whose leaves are for `localhost`."""

    def __init__(self, directory):
        self.dir = directory
        authority = [(usage("key_cert_sign", "crl_sign"), True)]
        root = Certificate("Test Root", KEYS["ECDSA"](), 3650, [(x509.BasicConstraints(True, 1), True), *authority])
        self.intermediate = Certificate("Test Intermediate", KEYS["ECDSA"](), 1800,
                                        [(x509.BasicConstraints(True, 0), True), *authority], root)
        self.root = directory / "root.pem"
        self.root.write_bytes(root.pem)

    def leaf(self, kind):
        """Makes a certificate with a key of this kind of `KEYS`, and returns its entry for a listener's `certificates`."""
        revoked = x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example.test/1.crl")], None, None, None)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        leaf = Certificate("localhost", KEYS[kind](), 90, [
            (x509.BasicConstraints(False, None), True),
            (usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectAlternativeName(names), False),
            (x509.CRLDistributionPoints([revoked]), False),
        ], self.intermediate)
        chain, key = self.dir / f"{kind}.pem", self.dir / f"{kind}.key"
        chain.write_bytes(leaf.pem + self.intermediate.pem)
        key.touch(0o600)
        key.write_bytes(leaf.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                               serialization.NoEncryption()))
        leaks.remember_pem(key)
        return f'{{ chain = "{chain}", key = "{key}" }}'
