//! Accepts sockets and speaks HTTP/1 on them. Axum's own loop has no limit on the time that a client may take to
//! send its request, and none on the number of sockets.

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const HEADER_WAIT: Duration = Duration::from_secs(5);
/// Sockets that have not become a WebSocket. Those that have are counted by the gateway's own limits.
const PLAIN_SOCKETS_MAX: usize = 4_096;
/// After an accept that failed for want of descriptors: time for others to be given back.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Serves `router` until `token` is cancelled, then lets the requests in hand end. WebSockets live on; they are
/// closed by [`crate::GatewayState::shutdown`].
pub async fn serve(listener: TcpListener, router: Router, token: CancellationToken) -> io::Result<()> {
    let (tasks, sockets) = (TaskTracker::new(), Arc::new(Semaphore::new(PLAIN_SOCKETS_MAX)));
    loop {
        let next = async {
            let permit = sockets.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (stream, peer, permit))
        };
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let (router, token) = (router.clone(), token.clone());
                tasks.spawn(async move {
                    serve_socket(stream, peer, router, token).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn serve_socket(stream: TcpStream, peer: SocketAddr, router: Router, token: CancellationToken) {
    // Messages are small and each counts: none waits for the next to fill a packet.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut stopping = std::pin::pin!(token.cancelled());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.as_mut() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
