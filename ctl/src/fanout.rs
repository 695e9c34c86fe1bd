//! The same call to many hosts at once, with one answer a host, in the order of the hosts.

use futures_util::{StreamExt, stream};

use crate::client::Client;
use crate::commands::Host;
use crate::error::CtlError;

/// Hosts that are talked to at one time: enough to hide their distance, few enough for a laptop's file limit.
const AT_ONCE: usize = 64;

/// Asks every host; one that fails keeps no other from answering.
pub(crate) async fn ask<T, F, Fut>(hosts: &[Host], call: F) -> Vec<(Host, Result<T, CtlError>)>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, CtlError>>,
{
    let calls = hosts.iter().map(|host| {
        let asked = call(host.client.clone());
        async move { (host.clone(), asked.await) }
    });
    stream::iter(calls).buffered(AT_ONCE).collect().await
}
