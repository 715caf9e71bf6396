//! What the machine reports, as log lines.

use sds_core::volume::interface::Event;

/// Logs an event at the level it deserves.
pub(crate) fn log(event: &Event) {
    match event {
        Event::Fenced { volume } => tracing::error!(%volume, "the volume was taken over by another client, or deleted; its requests fail"),
        Event::Waiting { sds, requests } => tracing::warn!(%sds, requests, "requests wait for a data server that cannot be reached"),
        Event::Silent { sds, requests } => tracing::warn!(%sds, requests, "requests wait for a data server that does not answer"),
        Event::DeviceNotReady { device, sds } => tracing::warn!(
            %device,
            %sds,
            "requests wait for a device that its data server does not serve: it is being opened, or could not be (`sdsctl status` says why)"
        ),
        Event::DeviceFailed { device, sds } => tracing::error!(
            %device,
            %sds,
            "a device has failed and requests for it end with I/O errors; `sdsctl status` says why: repair or replace it and restart its data server"
        ),
        Event::Reached { sds } => tracing::info!(%sds, "the data server answers again"),
        Event::TimedOut { volume } => tracing::error!(%volume, "requests were not served within the io_timeout and end with I/O errors"),
        Event::FlushLost { volume } => tracing::error!(
            %volume,
            "a flush fails once: writes that were acknowledged and not flushed were lost with the power of both their copies"
        ),
        Event::PayloadDamaged { link } => tracing::warn!(link = link.get(), "a payload was damaged on its way; asking again"),
        Event::Refused { reason } => tracing::error!(reason, "the MDM refuses this client"),
        Event::LinkRefused { sds, status } => tracing::warn!(%sds, ?status, "a data server refuses the connection; trying again"),
        Event::CloseFlushFailed { volume, status } => {
            tracing::error!(%volume, ?status, "writes could not be made durable when the volume was closed");
        }
        Event::Unreadable { volume, offset } => tracing::error!(%volume, %offset, "a block is damaged and no good copy is reachable"),
    }
}
