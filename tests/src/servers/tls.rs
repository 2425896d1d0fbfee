//! A certificate authority of the test's own, and what it signs: `openssl` makes keys and certificates in a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ServerError;

/// An authority that nobody trusts but who is given [`Authority::certificate`].
#[derive(Debug)]
pub struct Authority {
    home: TempDir,
}

/// A certificate with its key, both as PEM files; they go with their authority.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    /// PKCS#8, not encrypted.
    pub key: PathBuf,
}

impl Authority {
    /// # Errors
    /// When `openssl` does not do it.
    pub fn new() -> Result<Self, ServerError> {
        let authority = Self { home: TempDir::with_prefix("guitong-tls-").map_err(failure)? };
        authority.request("authority", "Synthetic Authority")?;
        let use_of = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
        let key = authority.file("authority.key");
        authority.sign("authority", use_of, |command| command.arg("-signkey").arg(key))?;
        Ok(authority)
    }

    /// PEM file of the authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// A certificate for a server or a client whose common name is `name`, with alternative names as OpenSSL writes them, such as
    /// `DNS:localhost,IP:127.0.0.1`.
    ///
    /// # Errors
    /// When `openssl` does not do it.
    pub fn issue(&self, name: &str, alternative_names: &str) -> Result<Identity, ServerError> {
        self.request(name, name)?;
        let use_of = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n\
             subjectAltName={alternative_names}\n"
        );
        let (certificate, key) = (self.certificate(), self.file("authority.key"));
        self.sign(name, &use_of, |command| command.arg("-CA").arg(certificate).arg("-CAkey").arg(key).arg("-CAcreateserial"))?;
        Ok(Identity { certificate: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A key and a request to sign it.
    fn request(&self, file: &str, common_name: &str) -> Result<(), ServerError> {
        openssl(
            Command::new("openssl")
                .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"])
                .arg(format!("/CN={common_name}"))
                .arg("-keyout")
                .arg(self.file(&format!("{file}.key")))
                .arg("-out")
                .arg(self.file(&format!("{file}.csr"))),
        )
    }

    fn sign(&self, file: &str, use_of: &str, by: impl FnOnce(&mut Command) -> &mut Command) -> Result<(), ServerError> {
        let extensions = self.file(&format!("{file}.ext"));
        fs::write(&extensions, use_of).map_err(failure)?;
        let mut command = Command::new("openssl");
        command
            .args(["x509", "-req", "-sha256", "-days", "2", "-in"])
            .arg(self.file(&format!("{file}.csr")))
            .arg("-extfile")
            .arg(extensions)
            .arg("-out")
            .arg(self.file(&format!("{file}.pem")));
        openssl(by(&mut command))
    }
}

impl Identity {
    /// One PEM file with key and certificate, as a Java key store of type PEM wants it.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn store(&self, to: &Path) -> Result<(), ServerError> {
        let mut both = fs::read(&self.key).map_err(failure)?;
        both.extend(fs::read(&self.certificate).map_err(failure)?);
        fs::write(to, both).map_err(failure)
    }
}

fn openssl(command: &mut Command) -> Result<(), ServerError> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| failure(format!("{error}; run tests/servers/fetch")))?;
    if output.status.success() { Ok(()) } else { Err(failure(String::from_utf8_lossy(&output.stderr))) }
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new("openssl", detail)
}
