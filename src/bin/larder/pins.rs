//! `pin`, `unpin` and `pins`: what no collection takes.

use serde_json::json;

use crate::args::List;
use crate::keys::Stored;
use crate::output;
use crate::stop::Stop;
use crate::store::{Place, either};

pub(crate) fn pin(place: &Place, key: &Stored) -> Result<(), Stop> {
    // Whether there is a value now makes no difference: the pin holds for one that comes.
    either!(place.any()?, store => store.pin(&key.named(store.base())?)?);
    Ok(())
}

pub(crate) fn unpin(place: &Place, key: &Stored) -> Result<(), Stop> {
    either!(place.any()?, store => {
        let key = key.named(store.base())?;
        match store.unpin(&key)? {
            true => Ok(()),
            false => Err(Stop::Absent(Some(format!("{} is not pinned", key.shown())))),
        }
    })
}

pub(crate) fn pins(place: &Place, args: &List) -> Result<(), Stop> {
    let pins = either!(place.any_read_only()?, store => store.pins()?);
    if args.json {
        let pins = pins
            .iter()
            .map(|pin| json!({ "path": pin.path().to_string_lossy() }));
        return output::json(&pins.collect::<Vec<_>>().into());
    }
    pins.iter().try_for_each(|pin| output::path(pin.path()))
}
