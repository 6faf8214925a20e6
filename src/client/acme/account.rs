//! The account of an `[acme.NAME]` section at its certificate authority. It is created by the first order.

use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount, Problem};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::folder::{ACCOUNT, Folder};
use super::transport::Transport;
use crate::config::AcmeConfig;

/// The type of the problem of an account that the certificate authority does not know (RFC 8555 section 6.7).
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// The file of an account.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The key identifier of the account that it is bound to.
    eab_key_id: Option<String>,
    contact: Vec<String>,
    credentials: AccountCredentials,
}

/// Why there is no account.
#[derive(Debug)]
pub(super) enum AccountError {
    /// The certificate authority does not answer, or refuses.
    Authority(Error),
    /// The file cannot be read or written.
    File(String),
}

/// Returns the account of a section: the stored one, or a new one, which is stored.
pub(super) async fn account(
    config: &AcmeConfig,
    folder: &Folder,
    transport: &Transport,
) -> Result<Account, AccountError> {
    let builder = || Account::builder_with_http(Box::new(transport.clone()));
    let key_id = config.external.as_ref().map(|external| external.key_id.clone());
    if let Some(Stored { contact, credentials, .. }) = read(folder, key_id.as_deref())? {
        let account = builder().from_credentials(credentials).await.map_err(AccountError::Authority)?;
        if contact != config.contact {
            update_contact(config, folder, &account).await?;
        }
        return Ok(account);
    }
    let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = config.external.as_ref().map(|own| ExternalAccountKey::new(own.key_id.clone(), &own.key));
    let creating = builder().create(&new, config.directory.uri().to_string(), external.as_ref());
    let (account, credentials) = creating.await.map_err(AccountError::Authority)?;
    write(folder, &Stored { eab_key_id: key_id, contact: config.contact.clone(), credentials })?;
    tracing::info!(acme = &*config.name, directory = %config.directory, "ACME account created");
    Ok(account)
}

/// Renames the file of the account if the certificate authority does not know the account.
pub(super) fn forget_unknown(folder: &Folder, error: &Error) {
    let is_unknown =
        matches!(error, Error::Api(Problem { r#type: Some(kind), .. }) if kind.as_str() == UNKNOWN_ACCOUNT);
    if is_unknown && let Ok(aside) = folder.set_aside(ACCOUNT, "unknown") {
        tracing::warn!(copy = %aside.display(), "the certificate authority does not know the ACME account: it is renamed");
    }
}

async fn update_contact(config: &AcmeConfig, folder: &Folder, account: &Account) -> Result<(), AccountError> {
    let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
    account.update_contacts(&contact).await.map_err(AccountError::Authority)?;
    let key_id = config.external.as_ref().map(|external| external.key_id.clone());
    if let Some(stored) = read(folder, key_id.as_deref())? {
        write(folder, &Stored { contact: config.contact.clone(), ..stored })?;
    }
    Ok(())
}

/// Reads the stored account. One that is damaged, or bound to another account, is renamed.
fn read(folder: &Folder, key_id: Option<&str>) -> Result<Option<Stored>, AccountError> {
    let shown = folder.path(ACCOUNT).display().to_string();
    let failed = |error: std::io::Error| AccountError::File(format!("cannot use {shown}: {error}"));
    let Some(content) = folder.read(ACCOUNT).map_err(failed)? else { return Ok(None) };
    match serde_json::from_slice::<Stored>(&content) {
        Ok(stored) if stored.eab_key_id.as_deref() == key_id => Ok(Some(stored)),
        Ok(_) => {
            let aside = folder.set_aside(ACCOUNT, "other-eab").map_err(failed)?;
            tracing::warn!(copy = %aside.display(), "the ACME account is bound to another eab_key_id: it is renamed");
            Ok(None)
        }
        // The message of the parser may quote the file.
        Err(_) => {
            let aside = folder.set_aside(ACCOUNT, "damaged").map_err(failed)?;
            tracing::error!(copy = %aside.display(), "the ACME account in state_dir is damaged: it is renamed");
            Ok(None)
        }
    }
}

fn write(folder: &Folder, stored: &Stored) -> Result<(), AccountError> {
    let failed = |error: String| AccountError::File(format!("cannot store the ACME account: {error}"));
    let content = serde_json::to_vec_pretty(stored).map(Zeroizing::new).map_err(|error| failed(error.to_string()))?;
    folder.write(ACCOUNT, &content).map_err(|error| failed(error.to_string()))
}
