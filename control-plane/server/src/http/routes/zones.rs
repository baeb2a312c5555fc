//! Zones.

use gristmill_protocol::{
    ErrorCode::{Conflict, NotFound, PreconditionFailed},
    Page,
    tenancy::Scope,
    zone::{ZoneSpec, ZoneView},
};

use crate::http::{
    openapi::{
        Operation, Tag, group,
        words::{Name, VersionTag},
    },
    user::zones,
};

pub(super) fn operations() -> Vec<Operation> {
    let operations = vec![
        Operation::get("/v1/zones", zones::list)
            .named("listZones", "List zones", "Zones that admit the caller's tenant, or all for an admin, by name, on one page.")
            .answers::<Page<ZoneView>>(200, "All zones that the caller may see."),
        Operation::post("/v1/zones", zones::create)
            .named("createZone", "Make a zone", "Nodes join it by a join token that is made for it.")
            .needs(Scope::Admin)
            .takes::<ZoneSpec>()
            .answers::<ZoneView>(201, "The new zone.")
            .tagged()
            .located()
            .refuses(&[Conflict]),
        Operation::get("/v1/zones/{name}", zones::get)
            .named("getZone", "Show a zone", "A zone and what it allows.")
            .at::<Name>("name", "Name of the zone.")
            .answers::<ZoneView>(200, "The zone.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::put("/v1/zones/{name}", zones::replace)
            .named("replaceZone", "Change a zone", "The whole zone is replaced; its name stays. With `If-Match`, only if nobody changed it meanwhile.")
            .needs(Scope::Admin)
            .at::<Name>("name", "Name of the zone, the same as in the body.")
            .header::<VersionTag>("if-match", "Entity tag of the version that is to be replaced, or `*`.")
            .takes::<ZoneSpec>()
            .answers::<ZoneView>(200, "The zone as it is now.")
            .tagged()
            .refuses(&[NotFound, Conflict, PreconditionFailed]),
    ];
    group(Tag::Zones, operations)
}
