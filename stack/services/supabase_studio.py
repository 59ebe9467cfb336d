"""Supabase Studio: tables, policies and users of Supabase in a browser, for administrators.

Upstream: supabase/supabase, apps/studio. Facts: docs/services/supabase.md
"""

from stack import images
from stack.model import (
    FREE_TEXT,
    Access,
    BackupSet,
    ContainerSpec,
    Encoding,
    HealthCheck,
    Http,
    ImageSource,
    Mount,
    Port,
    Profile,
    Proof,
    RateClass,
    Ref,
    ResourceLimits,
    Route,
    RouteUrl,
    ServiceSpec,
    Target,
    Volume,
    Waf,
    WafExclusion,
    Zone,
)


def _shared(secret: str) -> Ref:
    """One of Supabase's secrets as it is."""
    return Ref("supabase", "http", template=f"{{{secret}}}", secrets=(secret,), encoding=Encoding.RAW)


SERVICE = ServiceSpec(
    name="supabase-studio",
    summary="Supabase's tables, policies and users in a browser",
    profiles=frozenset({Profile("supabase")}),
    unavailable={ImageSource.AIRGAP: "no package registry has Studio, and nothing takes its place"},
    containers=(
        ContainerSpec(
            image=images.SUPABASE_STUDIO,
            user="1000:1000",
            zones=frozenset({Zone.APP}),
            ports=(Port("http", 3000),),
            entrypoint=("node", "apps/studio/server.js"),
            env={
                "HOME": "/tmp",
                "HOSTNAME": "0.0.0.0",
                "PORT": "3000",
                "NODE_OPTIONS": "--max-old-space-size=512",
                "NEXT_TELEMETRY_DISABLED": "1",
                "STUDIO_PG_META_URL": Ref("supabase-meta", "http"),
                "PG_META_CRYPTO_KEY": Ref(
                    "supabase-meta", "http", template="{crypto-key}", secrets=("crypto-key",), encoding=Encoding.RAW
                ),
                # It hands this on to postgres-meta, encrypted: it is in no network with the database itself.
                "POSTGRES_HOST": "postgres",
                "POSTGRES_PORT": "5432",
                "POSTGRES_DB": "supabase",
                "POSTGRES_USER_READ_WRITE": "supabase_admin",
                "POSTGRES_USER_READ_ONLY": "supabase_admin",
                "POSTGRES_PASSWORD": _shared("admin-password"),
                "PGRST_DB_SCHEMAS": "public",
                "PGRST_DB_MAX_ROWS": "1000",
                "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
                "DEFAULT_ORGANIZATION_NAME": "ai-kit",
                "DEFAULT_PROJECT_NAME": "ai-kit",
                "SUPABASE_URL": Ref("supabase", "http"),
                "SUPABASE_PUBLIC_URL": RouteUrl("supabase", "supabase"),
                "SUPABASE_ANON_KEY": _shared("anon-key"),
                "SUPABASE_SERVICE_KEY": _shared("service-key"),
                "AUTH_JWT_SECRET": _shared("jwt-secret"),
                # No log service here: it would take more memory than all the rest.
                "NEXT_PUBLIC_ENABLE_LOGS": "false",
                "SNIPPETS_MANAGEMENT_FOLDER": "/app/snippets",
                "EDGE_FUNCTIONS_MANAGEMENT_FOLDER": "/tmp/functions",
            },
            mounts=(Mount("snippets", "/app/snippets"),),
            tmpfs={"/tmp": 64, "/app/apps/studio/.next/cache": 64},
            health=HealthCheck(test=Http("http", "/api/platform/profile"), interval_s=5, start_period_s=120),
            limits={
                Target.DEV: ResourceLimits(memory_mb=768, cpus=1),
                Target.PI: ResourceLimits(memory_mb=768, cpus=1),
                Target.GPU: ResourceLimits(memory_mb=1024, cpus=2),
            },
            wait_s=420,
        ),
    ),
    volumes=(Volume("snippets", BackupSet.files()),),
    routes=(
        Route(
            name="studio",
            port="http",
            access=Access.ADMIN,
            deny=("/api/mcp", "/mcp"),
            rate=RateClass.BUNDLE,
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=("/api/platform/",),
                        reason="It is an editor of SQL, for administrators alone: statements are what it sends",
                    ),
                ),
            ),
        ),
    ),
    proofs=(Proof("it answers nobody outside", "stack.proofs.ports:closed"),),
)
