#!/bin/bash
# The plugins of plugins.txt, once fetched and with their sums, for every start.
#
# fetch   a job with a way out: has the image's own tool fetch them into the volume, where it checks each against the sum
#         that the update site gives, and keeps the sums for later. A list that is there whole is not fetched again.
# start   Jenkins's own container, without a way out: puts exactly these into its home, has Java trust the stack's CA, and
#         becomes the program that it is given.
#
# Never half of a list: it is put beside the others under its own name, in one step, when all of it is there.
set -euo pipefail

kit=${KIT_DIR:-/run/kit}
kept=${KIT_PLUGINS:-/plugins}
list=$kit/plugins.txt
# A list means other plugins to another Jenkins: some come with it.
set=$kept/$( (cat "$list"; echo "jenkins ${JENKINS_VERSION:?}") | sha256sum | cut -c1-16)

names() {
    sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$list"
}

whole() {
    [ -s "$set/sums" ] && (cd "$set" && sha256sum --check --strict --status sums)
}

# As it says in the file: Plugin-Version: 5.10.1
version() {
    unzip -p "$1" META-INF/MANIFEST.MF | tr -d '\r' | sed -n 's/^Plugin-Version: \([^ ]*\).*/\1/p'
}

fetch() {
    if whole; then
        echo "there already: $(wc -l < "$set/sums") plugins, each as its sum says"
        return
    fi
    next=$kept/next
    rm -rf "$next" "$set"
    mkdir "$next"
    jenkins-plugin-cli --plugin-file "$list" --plugin-download-directory "$next" --latest=false
    while IFS=: read -r name wanted; do
        file=$next/$name.jpi
        if ! [ -s "$file" ]; then
            echo "$name was not fetched" >&2
            exit 1
        fi
        came=$(version "$file")
        if [ "$came" != "$wanted" ]; then
            echo "$name came as ${came:-nothing known}, and plugins.txt says $wanted: another plugin asks for more." \
                "Pin what came, or older versions of what asks for it." >&2
            exit 1
        fi
    done < <(names)
    (cd "$next" && sha256sum -- *.jpi > sums)
    mv "$next" "$set"
    # The one before stays: a Jenkins that is not yet replaced may start again meanwhile.
    find "$kept" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d' ' -f2- |
        while IFS= read -r old; do rm -rf "$old"; done
    echo "fetched: $(wc -l < "$set/sums") plugins"
}

start() {
    if ! whole; then
        echo "the plugins of this list are not there whole: the job 'plugins' fetches them (./kit up)" >&2
        exit 1
    fi
    rm -rf "$JENKINS_HOME/plugins"
    mkdir -p "$JENKINS_HOME/plugins" "$JENKINS_HOME/native"
    cp "$set"/*.jpi "$JENKINS_HOME/plugins/"
    # Java has a store of its own: the system's, and the stack's CA.
    trust=${TMPDIR:-/tmp}/trust
    cp -f "${JAVA_HOME:?}/lib/security/cacerts" "$trust"
    chmod 0600 "$trust"
    keytool -importcert -noprompt -alias ai-kit -file "$kit/ca.crt" -keystore "$trust" -storepass changeit 2> "$trust.log" ||
        { cat "$trust.log" >&2; exit 1; }
    exec "$@"
}

verb=$1
shift
"$verb" "$@"
