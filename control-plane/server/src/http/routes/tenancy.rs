//! Tenants and user tokens.

use gristmill_protocol::{
    ErrorCode::{Conflict, NotFound},
    Page, TokenId,
    audit::{AuditFilter, AuditView},
    tenancy::{Scope, TenantSpec, TenantView, TokenCreated, TokenSpec, TokenView},
};

use crate::http::{
    extract::PageQuery,
    openapi::{Operation, Tag, group, words::Name},
    user::{audit, tenancy},
};

pub(super) fn operations() -> Vec<Operation> {
    group(Tag::Tenancy, [tenants(), tokens()].concat())
}

fn tenants() -> Vec<Operation> {
    vec![
        Operation::get("/v1/audit", audit::list)
            .named("listAudit", "List who changed what", "Entries of the record, newest first; all given filters hold. Each was written in the transaction of its change.")
            .needs(Scope::Admin)
            .query::<AuditFilter>()
            .answers::<Page<AuditView>>(200, "One page."),
        Operation::get("/v1/tenants", tenancy::list_tenants)
            .named("listTenants", "List tenants", "All tenants for an admin, else the caller's own.")
            .query::<PageQuery>()
            .answers::<Page<TenantView>>(200, "One page."),
        Operation::post("/v1/tenants", tenancy::create_tenant)
            .named("createTenant", "Make a tenant", "A tenant owns modules, blobs, jobs and tokens.")
            .needs(Scope::Admin)
            .takes::<TenantSpec>()
            .answers::<TenantView>(201, "The new tenant.")
            .tagged()
            .located()
            .refuses(&[Conflict]),
        Operation::get("/v1/tenants/{name}", tenancy::get_tenant)
            .named("getTenant", "Show a tenant", "The caller's own, or any for an admin.")
            .at::<Name>("name", "Name of the tenant.")
            .answers::<TenantView>(200, "The tenant.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::put("/v1/tenants/{name}", tenancy::replace_tenant)
            .named("replaceTenant", "Change a tenant", "Depth of the queue and retention are replaced; what is absent is the server's. The name stays.")
            .needs(Scope::Admin)
            .at::<Name>("name", "Name of the tenant, the same as in the body.")
            .under_condition()
            .takes::<TenantSpec>()
            .answers::<TenantView>(200, "The tenant as it is now.")
            .tagged()
            .refuses(&[NotFound, Conflict]),
    ]
}

fn tokens() -> Vec<Operation> {
    vec![
        Operation::get("/v1/tokens", tenancy::list_tokens)
            .named(
                "listTokens",
                "List tokens",
                "Tokens of the tenant, or all for an admin, newest first; never their secrets.",
            )
            .query::<PageQuery>()
            .answers::<Page<TokenView>>(200, "One page."),
        Operation::post("/v1/tokens", tenancy::create_token)
            .named(
                "createToken",
                "Make a token",
                "It may do at most what the caller may, and ends no later, unless the caller is an admin. The secret is shown only now.",
            )
            .takes::<TokenSpec>()
            .answers::<TokenCreated>(201, "The new token with its secret.")
            .tagged()
            .located()
            .refuses(&[Conflict, NotFound]),
        Operation::get("/v1/tokens/{id}", tenancy::get_token)
            .named("getToken", "Show a token", "What it may do, until when; never its secret.")
            .at::<TokenId>("id", "The token.")
            .answers::<TokenView>(200, "The token.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::delete("/v1/tokens/{id}", tenancy::revoke_token)
            .named("deleteToken", "Take a token back", "The same as `POST /v1/tokens/{id}/revoke`.")
            .at::<TokenId>("id", "The token.")
            .under_condition()
            .answers::<TokenView>(200, "The token as it is now.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::post("/v1/tokens/{id}/revoke", tenancy::revoke_token)
            .named(
                "revokeToken",
                "Take a token back",
                "It is refused from now on, and so is what it made, unless it has the scope `admin`. A second call changes nothing. Only an admin takes back a token with a scope that the caller lacks.",
            )
            .at::<TokenId>("id", "The token.")
            .under_condition()
            .answers::<TokenView>(200, "The token as it is now.")
            .tagged()
            .refuses(&[NotFound]),
    ]
}
