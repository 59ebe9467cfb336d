"""Plan -> components: the only module that knows both. It decides nothing; it carries out a Runtime.

The persistent part (secrets, certificates, data volumes, realm) is registered always, the running part only
while the stack is up: that is what makes `down` different from destroy (docs/adr/0006-down-is-not-destroy.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pulumi
from pulumi import Input, Output, ResourceOptions

from components.certificate import (
    CaArgs,
    CertificateAuthority,
    CrossArgs,
    CrossCertificate,
    LeafArgs,
    LeafCertificate,
)
from components.common import After, Attachment, Content, Done, VolumeMount, duration
from components.database import Database, DatabaseArgs
from components.files import DeliveredFile, FileDelivery, FileDeliveryArgs, Ownership
from components.flows import Flows, FlowsArgs
from components.host import Host, HostArgs
from components.identity_provider import Endpoints, IdentityProviderArgs
from components.identity_provider import IdentityProvider as OtherProvider
from components.image import Image, ImageArgs
from components.job import Job, JobArgs
from components.keycloak import KeycloakAccess, KeycloakAccessArgs
from components.network import Network, NetworkArgs
from components.oidc_client import OidcClient, OidcClientArgs
from components.people import People, PeopleArgs, PersonArgs
from components.realm import AdminUser, Realm, RealmArgs, Smtp
from components.reload import Reload, ReloadArgs
from components.secret import DigestKey, GeneratedSecret, SecretArgs
from components.service import Limits, Probe, PublishedPort, Service, ServiceArgs
from components.volume import DataVolume, VolumeArgs
from stack import certificates, outputs, rotation, settings
from stack.derive import encode, oidc, runtime
from stack.derive.runtime import ContainerPlan, JobPlan, Runtime
from stack.derive.values import CaPiece, FrontPiece, SecretPiece, Text, issuer_url
from stack.model import CertificateSource, Generated, IdentityProvider, Provided, Role, Signed, SpecError
from stack.people import ADMIN_USER
from stack.plan import Plan, PlannedSecret, PlannedService, SecretKey
from stack.realm import ADMIN_GROUP, EVERYBODY_GROUP, MAIL_PASSWORD_KEY, LoginTheme, SecondFactor

GENERATIONS = "generations"  # the output: secrets that the state has, "owner/name" -> generation
FRONT = "frontCertificate"  # the output: which of the operator's chains was delivered (certificates.fingerprint)
ATTEMPTS = 20  # to read the state, a tenth of a second apart
BEFORE = "generationsBefore"  # the output: the generation before, where it is not the number below


def deploy(plan: Plan) -> None:
    """Register everything the plan asks for and export what operators need.

    SpecError, with nothing registered, when a secret would go back to an earlier generation, or be lost.
    """
    checked = os.environ.get(rotation.CHECKED)
    plan = replace(plan, held=rotation.numbers(checked) if checked else held())
    now = {str(each.key): each.generation for each in (*plan.secrets, *plan.certificates)}
    if not checked:
        before = {name: max(numbers) for name, numbers in plan.held.items()}
        found = (*rotation.backwards(before, now), *rotation.too_early(before, now), *rotation.lost(before, now))
        if found:
            raise SpecError(f"{settings.stack_file(plan.stack)} cannot be deployed", found)
    if wrong := certificates.problems(plan, Path(__file__).resolve().parent.parent):
        raise SpecError(f"{settings.stack_file(plan.stack)} cannot be deployed", wrong)
    Deployment(plan, runtime.build(plan)).run()
    if plan.settings.certificates is CertificateSource.FILES and not plan.settings.down:
        pulumi.export(FRONT, certificates.fingerprint(plan.settings))
    lasting = {str(each.key) for each in plan.secrets if isinstance(each.source, Generated)}
    lasting |= {str(each.key) for each in plan.certificates}
    pulumi.export(GENERATIONS, {name: number for name, number in now.items() if name in lasting})
    jumped = {str(each.key): each.previous for each in plan.secrets if 0 < each.previous < each.generation - 1}
    pulumi.export(BEFORE, jumped)


def held() -> dict[str, tuple[int, ...]]:
    """Which generations the state has, by what the last deployment exported: the ones in use and the ones before."""
    newest, jumped = recorded()
    return {
        name: tuple(dict.fromkeys((1, jumped.get(name, rotation.previous(number)) or 1, number)))
        for name, number in newest.items()
    }


def recorded() -> tuple[dict[str, int], dict[str, int]]:
    """What the stack's last deployment exported as GENERATIONS and BEFORE, each {} before the first."""
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    read = _read_outputs(name)
    newest, before = (cast("Mapping[str, Any]", read.get(output) or {}) for output in (GENERATIONS, BEFORE))
    return {key: int(number) for key, number in newest.items()}, {key: int(number) for key, number in before.items()}


def _read_outputs(stack: str) -> Mapping[str, Any]:
    """The outputs as the state has them.

    The engine writes the first of its own state while the program already runs, and finds it half written then.
    """
    for attempt in range(ATTEMPTS):
        try:
            read = pulumi.runtime.invoke("pulumi:pulumi:readStackOutputs", {"name": stack}).value
        except Exception as error:
            if "failed to load checkpoint" not in str(error) or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.1)
        else:
            found = cast("Mapping[str, Any]", read or {})
            return cast("Mapping[str, Any]", found.get("outputs") or {})
    raise AssertionError("not reached")


# As Keycloak calls them. The first is delivered with its service.
THEMES = {LoginTheme.KIT: "kit", LoginTheme.PLAIN: "keycloak.v2"}


class Deployment:
    """One run of the program over one plan."""

    def __init__(self, plan: Plan, planned: Runtime) -> None:
        self.plan = plan
        self.runtime = planned
        self.host = Host(f"{plan.stack}-host", HostArgs(docker_host=plan.host.docker_host))
        self.secrets: dict[SecretKey, Output[str]] = {}
        self.previous: dict[SecretKey, Output[str]] = {}  # those before, of secrets that were rotated
        self.volumes: dict[str, DataVolume] = {}
        self.networks: dict[str, Network] = {}
        self.images: dict[str, Image] = {}
        self.deliveries: dict[str, FileDelivery] = {}
        self.steps: dict[str, Service | Job | Database | Reload] = {}

    def run(self) -> None:
        """Persistent part, running part, realm, exports."""
        self._secrets()
        self._certificates()
        self._volumes()
        if self.plan.running:
            self._networks()
            for step in self.runtime.steps:
                self.steps[step.name] = self._service(step) if isinstance(step, ContainerPlan) else self._job(step)
        self._identity()
        pulumi.export(outputs.export_name("ca_pem"), self.trusted)

    # ------------------------------------------------------------------------------------- persistent part

    def _secrets(self) -> None:
        # Keyed digests of delivered files stand in labels: without the key nobody can test guesses against them.
        # First, because every container with files waits for it.
        self.digest_key = DigestKey("digest-key").value
        derived: list[tuple[SecretKey, Signed]] = []
        for secret in self.plan.secrets:
            if isinstance(secret.source, Signed):
                derived.append((secret.key, secret.source))
                continue
            if isinstance(secret.source, Generated):
                self._generated(secret, secret.source)
            # One that the operator has instead leaves the generated one in the state: it may be wanted again.
            if secret.source.config_key in self.plan.settings.provided_secrets:
                self.secrets[secret.key] = settings.provided_secret(secret.source.config_key)
        for key, source in derived:
            signing = self.secrets[SecretKey(key.owner, source.key)]
            self.secrets[key] = Output.secret(signing.apply(_signer(source.claims)))
        self.admin_password = GeneratedSecret("admin-user", SecretArgs(length=24)).value

    def _generated(self, secret: PlannedSecret, source: Generated) -> None:
        """The generation in use and the first, which are protected, and the one before, which is not: it may go.

        Whoever leaves the program out, or its number, is refused by the engine: what is in use is not deleted.
        """
        made: dict[int, Output[str]] = {}
        for number in rotation.kept(secret.generation, self.plan.held.get(str(secret.key), ())):
            name = rotation.resource_name(secret.key.owner, secret.key.name, number)
            protect = number in (secret.generation, 1) and not secret.passing
            args = SecretArgs(length=source.length, special=source.special, protect=protect)
            made[number] = GeneratedSecret(name, args).value
        self.secrets[secret.key] = made[secret.generation]
        if before := made.get(secret.previous):
            self.previous[secret.key] = before

    def _certificates(self) -> None:
        """The CA that signs, beside the one before while that one is still trusted (docs/adr/0024-authority.md).

        The newer one is made after the older one, which loses its protection by that: it can go when its time is over.
        """
        signs, oldest = self.plan.authorities
        made: dict[int, CertificateAuthority] = {}
        for number in range(oldest, signs + 1):
            title = f"ai-kit {self.plan.stack} CA" + (f" {number}" if number > 1 else "")
            after = [older.own for older in made.values()]
            args = CaArgs(common_name=title, protect=number == signs, after=after)
            made[number] = CertificateAuthority(rotation.certificate_name(rotation.CA, number), args)
        self.ca = made[signs]
        self.trusted = Output.concat(*(made[number].ca_pem for number in sorted(made, reverse=True)))
        cross = None
        if signs > oldest:
            name = f"{rotation.certificate_name(rotation.CA, signs)}-cross"
            cross = CrossCertificate(name, CrossArgs(ca=self.ca, by=made[oldest]))
        # A stack without routes, such as a database alone, has no host name but the domain.
        hosts = tuple(sorted(set(self.plan.host_names)))
        hosts = hosts or (self.plan.settings.domain,)
        self.leaf = LeafCertificate(
            rotation.certificate_name(rotation.LEAF, self.plan.leaf),
            LeafArgs(ca=self.ca, hosts=hosts, ips=("127.0.0.1",), cross=cross),
        )

    def _volumes(self) -> None:
        for volume in self.runtime.volumes:
            self.volumes[volume.name] = DataVolume(
                volume.name,
                VolumeArgs(volume_name=volume.name, labels=volume.labels, protect=not volume.passing),
                opts=self._docker(),
            )

    # ---------------------------------------------------------------------------------------- running part

    def _networks(self) -> None:
        for network in self.runtime.networks:
            args = NetworkArgs(
                network_name=network.name, internal=network.internal, labels=network.labels, isolated=network.isolated
            )
            self.networks[network.name] = Network(network.name, args, opts=self._docker())

    def _image(self, reference: str, local: bool) -> Image:
        if reference not in self.images:
            args = ImageArgs(reference=reference, local=local)
            self.images[reference] = Image(reference, args, opts=self._docker())
        return self.images[reference]

    def _service(self, step: ContainerPlan) -> Service:
        delivery = self._delivery(step)
        if delivery:
            self.deliveries[step.name] = delivery
        after = self._after(step.after)
        return Service(
            step.name,
            ServiceArgs(
                container_name=step.name,
                image=self._image(step.image, step.local_image).reference,
                user=step.user,
                entrypoint=step.entrypoint,
                command=step.command,
                env={**step.env, **{name: self._render(text) for name, text in step.secret_env.items()}},
                mounts=self._mounts(step),
                networks=self._attachments(step),
                publish=tuple(PublishedPort(internal=p.internal, external=p.external, ip=p.ip) for p in step.publish),
                health=Probe(
                    argv=step.health.argv,
                    interval_s=step.health.interval_s,
                    timeout_s=step.health.timeout_s,
                    retries=step.health.retries,
                    start_period_s=step.health.start_period_s,
                ),
                limits=Limits(
                    memory_mb=step.limits.memory_mb,
                    cpus=step.limits.cpus,
                    pids=step.limits.pids,
                    cpuset=step.limits.cpuset,
                    gpu=step.limits.gpu,
                    shm_mb=step.limits.shm_mb,
                ),
                read_only=step.read_only,
                tmpfs=step.tmpfs,
                capabilities=step.capabilities,
                labels=step.labels,
                restart_digest=delivery.restart_digest if delivery else None,
                stop_grace_s=step.stop_grace_s,
                wait_s=step.wait_s,
                after=[*after, delivery.done] if delivery else after,
            ),
            opts=self._docker(),
        )

    def _delivery(self, step: ContainerPlan) -> FileDelivery | None:
        """The job that fills the container's config volume and hands its data volumes to its user."""
        if not step.files and not step.ownership:
            return None
        if step.config_volume:
            self.volumes[step.config_volume] = DataVolume(
                step.config_volume,
                VolumeArgs(volume_name=step.config_volume, labels=step.labels, protect=False),
                opts=self._docker(),
            )
        return FileDelivery(
            f"{step.name}-files",
            FileDeliveryArgs(
                container_name=f"{step.name}-files",
                image=self._image(self.runtime.tools_image, self.runtime.tools_local).reference,
                volume_name=self.volumes[step.config_volume].volume_name if step.config_volume else None,
                uid_gid=step.user,
                files=tuple(
                    DeliveredFile(name=f.name, content=self._render(f.text), mode=f.mode, restarts=f.restarts)
                    for f in step.files
                ),
                ownership=tuple(
                    Ownership(volume=self.volumes[o.volume].volume_name, owner=o.owner, mode=o.mode, seeded=o.seeded)
                    for o in step.ownership
                ),
                adopt=self.plan.settings.adopt,
                digest_key=self.digest_key,
                labels={**step.labels, "aikit.kind": "job"},
                after=[
                    *self._after(self.runtime.guards(step)),
                    *self._after(self.runtime.accepted(step)),
                    *(self.deliveries[name].done for name in self.runtime.needed(step) if name in self.deliveries),
                ],
            ),
            opts=self._docker(),
        )

    def _job(self, step: JobPlan, after: After = (), triggers: Iterable[Input[str]] = ()) -> Job | Database | Reload:
        """The job of a step. after, triggers: beside those that the step names."""
        if step.reloads:
            return self._reload(step)
        args = JobArgs(
            container_name=step.name,
            image=self._image(step.image, step.local_image).reference,
            user=step.user,
            entrypoint=step.entrypoint,
            command=step.command,
            env=step.env,
            files=tuple(Content(name=f.name, content=self._render(f.text), mode=f.mode) for f in step.files),
            mounts=self._mounts(step),
            networks=self._attachments(step),
            memory_mb=step.memory_mb,
            timeout_s=step.timeout_s,
            labels=step.labels,
            triggers=(*(self._render(text) for text in step.triggers), *self._holders(step), *triggers),
            digest_key=self.digest_key,
            after=[*self._after(step.after), *after],
        )
        if step.grant is None:
            return Job(step.name, args, opts=self._docker())
        database = DatabaseArgs(
            database=step.grant.database,
            role=step.grant.role,
            extensions=step.grant.extensions,
            password=self._render(step.grant.password),
            job=args,
        )
        return Database(step.name, database, opts=self._docker())

    def _holders(self, step: JobPlan) -> list[Output[str]]:
        """The ids of its own service's containers that it comes after and that hold data.

        A new one may have found another volume: restored, or older than the state. What the job made may be missing.
        """
        made = [step_ for step_ in self.runtime.containers if step_.name in step.after]
        return [self._running(c.name).container_id for c in made if c.service == step.service and c.ownership]

    def _reload(self, step: JobPlan) -> Reload:
        return Reload(
            step.name,
            ReloadArgs(
                container_name=step.name,
                target=self._running(step.reloads).container_name,
                image=self._image(step.image, step.local_image).reference,
                user=step.user,
                command=step.command,
                reload_digest=self.deliveries[step.reloads].reload_digest,
                digest_key=self.digest_key,
                mounts=self._mounts(step),
                memory_mb=step.memory_mb,
                timeout_s=step.timeout_s,
                labels=step.labels,
                after=self._after(step.after),
            ),
            opts=self._docker(),
        )

    def _running(self, name: str) -> Service:
        step = self.steps[name]
        if not isinstance(step, Service):
            raise TypeError(f"{name} is a job, and a job has no processes to share")
        return step

    def _mounts(self, step: ContainerPlan | JobPlan) -> tuple[VolumeMount, ...]:
        return tuple(
            VolumeMount(volume=self.volumes[m.volume].volume_name, path=m.path, read_only=m.read_only)
            for m in step.mounts
        )

    def _attachments(self, step: ContainerPlan | JobPlan) -> tuple[Attachment, ...]:
        return tuple(
            Attachment(network=self.networks[n.network].network_name, aliases=n.aliases) for n in step.networks
        )

    def _after(self, names: Iterable[str]) -> list[Done]:
        """What must be healthy or have succeeded first. Steps come in an order in which it is registered already."""
        return [self.steps[name].done for name in names if name in self.steps]

    def _docker(self) -> ResourceOptions:
        return ResourceOptions(providers=[self.host.provider])

    # --------------------------------------------------------------------------------------------- secrets

    def _render(self, text: Text) -> Input[str]:
        """The text with its secrets and certificates filled in: an Output, secret when a part of it is."""
        if all(isinstance(piece, str) for piece in text):
            return "".join(piece for piece in text if isinstance(piece, str))
        return Output.concat(*(self._piece(piece) for piece in text))

    def _piece(self, piece: Any) -> Input[str]:
        match piece:
            case str():
                return piece
            case SecretPiece(key, _, previous) if previous and key not in self.previous:
                return ""
            case SecretPiece(key, encoding, previous):
                value = (self.previous if previous else self.secrets)[key]
                return value.apply(lambda value: encode.encode(value, encoding))
            case CaPiece():
                return self.trusted
            case FrontPiece():
                return Output.secret(certificates.read(self.plan.settings).pem)
            case _:
                return self.leaf.pem

    # -------------------------------------------------------------------------------------------- identity

    def _identity(self) -> None:
        service = self.plan.provider(Role.IDENTITY)
        if service is None or service.spec.identity_provider is None:
            return
        provider = service.spec.identity_provider
        admin_url = f"https://127.0.0.1:{self.plan.settings.admin_port}"
        path = self.plan.path(service.spec.routes[0])
        admin_secret = self.secrets[SecretKey(service.name, provider.admin_secret)]
        after = self._identity_runs(service)
        access = KeycloakAccess(
            "identity",
            KeycloakAccessArgs(
                url=admin_url,
                path=path,
                client_id=provider.admin_client_id,
                client_secret=admin_secret,
                ca_pem=self.trusted,
                after=after,
            ),
        )
        options = ResourceOptions(providers=[access.provider], deleted_with=self._identity_data(service))
        realm = Realm(
            "realm",
            RealmArgs(
                realm=self.plan.settings.realm,
                display_name=self.plan.settings.login_title,
                admin=AdminUser(
                    username=ADMIN_USER, email=self.plan.settings.admin_email, password=self.admin_password
                ),
                after=after,
                **self._rules(service),
            ),
            opts=options,
        )
        flows = self._logins(service, realm, options)
        People(
            "people",
            PeopleArgs(
                realm=realm,
                after=[flows.bound],
                groups=self.plan.settings.groups,
                people=tuple(
                    PersonArgs(
                        username=person.username,
                        email=person.email,
                        first_name=person.first_name,
                        last_name=person.last_name,
                        role=person.role.value,
                        groups=person.groups,
                        enabled=person.enabled,
                    )
                    for person in self.plan.settings.people
                ),
            ),
            opts=options,
        )
        for client in oidc.clients(self.plan):
            OidcClient(
                f"client-{client.client_id}",
                OidcClientArgs(
                    realm=realm,
                    client_id=client.client_id,
                    client_secret=self.secrets[client.secret],
                    root_url=client.root_url,
                    redirect_uris=client.redirect_uris,
                    web_origins=client.web_origins,
                    post_logout_redirect_uris=client.post_logout_redirect_uris,
                    backchannel_logout_url=client.backchannel_logout_url,
                    roles={role.name: role.audience.value for role in client.roles},
                    after=[*after, flows.bound],
                ),
                opts=options,
            )
        for step in self.runtime.after_realm:
            # A realm that is made anew has another id of its own kind: a group's, for its own is its name.
            self._job(step, after=[flows.bound], triggers=[realm.everybody_group_id])
        self._export(provider, admin_url + path, admin_secret)

    def _rules(self, service: PlannedService) -> dict[str, Any]:
        """What the settings say about the realm, in the words of RealmArgs."""
        said = self.plan.settings
        mail = said.mail_server
        smtp = mail and Smtp(
            host=mail.host,
            port=mail.port,
            sender=said.mail_from,
            tls=mail.tls,
            user=mail.user,
            password=self._provided(service, MAIL_PASSWORD_KEY) if mail.user else None,
        )
        return {
            "admin_group": ADMIN_GROUP,
            "everybody_group": EVERYBODY_GROUP,
            "password_policy": f"length({said.password_length}) and notUsername(undefined) and notEmail(undefined)",
            "access_token_lifespan": duration(said.token_minutes * 60),
            "sso_session_idle": duration(said.session_idle_minutes * 60),
            "sso_session_max": duration(said.session_max_minutes * 60),
            "login_failures": said.login_failures,
            "event_days": said.event_days,
            "language": said.login_language,
            "login_theme": THEMES[said.login_theme],
            "relying_party": said.domain,
            "smtp": smtp,
            "digest_key": self.digest_key,
        }

    def _logins(self, service: PlannedService, realm: Realm, options: ResourceOptions) -> Flows:
        """How people prove who they are: the second factor, and the other providers."""
        said = self.plan.settings
        required_of: dict[str, Input[str]] = {}
        if said.second_factor is not SecondFactor.OPTIONAL:
            required_of[ADMIN_GROUP] = realm.admin_group_id
        if said.second_factor is SecondFactor.EVERYONE:
            required_of[EVERYBODY_GROUP] = realm.everybody_group_id
        flows = Flows(
            "login",
            FlowsArgs(
                realm=realm,
                required_of=required_of,
                mail=said.mail_server is not None,
                brokers=bool(said.identity_providers),
            ),
            opts=options,
        )
        for kind, other in said.identity_providers.items():
            OtherProvider(
                f"provider-{kind}",
                IdentityProviderArgs(
                    realm=realm,
                    flows=flows,
                    kind=kind,
                    client_id=other.client_id,
                    client_secret=self._provided(service, other.secret_key),
                    display_name=other.name,
                    endpoints=Endpoints(**other.endpoints) if other.endpoints else None,
                ),
                opts=options,
            )
        return flows

    def _provided(self, service: PlannedService, config_key: str) -> Output[str]:
        """A secret of the service that the operator set under this key."""
        name = next(
            secret.name
            for secret in service.spec.secrets
            if isinstance(secret.source, Provided) and secret.source.config_key == config_key
        )
        return self.secrets[SecretKey(service.name, name)]

    def _identity_runs(self, service: PlannedService) -> After:
        """Keycloak and the way to it, both healthy before the first call, and its jobs done: they let us in.

        Nor may a reload fall in the middle of the calls: a front door that reads its files anew knows no server for a
        moment, and answers 503.
        """
        names = [container.docker_name for container in service.containers]
        names += [job.name for job in self.runtime.jobs if job.service == service.name and not job.reloads]
        ingress = self.plan.provider(Role.INGRESS)
        if ingress is not None:
            names += [container.docker_name for container in ingress.containers]
        return self._after([*names, *(job.name for job in self.runtime.jobs if job.reloads in names)])

    def _identity_data(self, service: PlannedService) -> pulumi.Resource | None:
        """The volume whose removal takes the realm with it, so that nobody asks a server that is gone."""
        database = self.plan.provider(Role.DATABASE)
        if not service.spec.databases or database is None:
            return None
        for volume in self.runtime.volumes:
            if volume.service == database.name:
                return self.volumes[volume.name].volume
        return None

    def _export(self, provider: IdentityProvider, admin_url: str, admin_secret: Output[str]) -> None:
        exported: Mapping[str, Any] = {
            "urls": {owned.item.name: self.plan.url(owned.item) for owned in self.plan.routes},
            "realm": self.plan.settings.realm,
            "issuer": issuer_url(self.plan),
            "admin_url": admin_url,
            "admin_client_id": provider.admin_client_id,
            "admin_client_secret": admin_secret,
            "admin_user": ADMIN_USER,
            "admin_password": self.admin_password,
            "keys": {str(secret.key): self.secrets[secret.key] for secret in self.plan.secrets if secret.handed_out},
        }
        for field, value in exported.items():
            secret = field in outputs.SECRET_OUTPUTS
            pulumi.export(outputs.export_name(field), Output.secret(value) if secret else value)


def _signer(claims: Mapping[str, str]) -> Callable[[str], str]:
    """What makes a token of a key. Its result is as secret as the key."""
    return lambda key: encode.token(key, claims)
