#!/bin/sh
# Makes the stack's key and bucket where they are missing and takes keys away that were rotated out. Then does what a
# user of the bucket does: writes an object, reads it, removes it; and sees that nobody does so without the key.
# `up` runs it after the start, `prove` whenever somebody asks. BusyBox is all it needs.
set -eu
umask 077

admin_token=$(cat /run/kit/admin-token)
key_id=$(cat /run/kit/key-id)
key=$(cat /run/kit/key)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whoever takes too long is sent TERM, and a shell that dies of it does not clean up.
trap 'exit 143' TERM INT HUP

patience=60
. /run/kit/http.sh

# admin METHOD CALL [JSON]
admin() {
    exchange "$KIT_ADMIN_PORT" "$1 /v2/$2 HTTP/1.0
Authorization: Bearer $admin_token
Content-Type: application/json" "${3:-}"
}

# ------------------------------------------------------------------------------------------------ key and bucket

tries=0
admin GET GetClusterStatus
while [ -z "$status" ] && [ $tries -lt 30 ]; do
    tries=$((tries + 1))
    sleep 1
    admin GET GetClusterStatus
done
[ "$status" = 200 ] || refused 'the administration'

admin GET "GetKeyInfo?id=$key_id"
if [ "$status" = 404 ]; then
    admin POST ImportKey "{\"accessKeyId\": \"$key_id\", \"secretAccessKey\": \"$key\", \"name\": \"$KIT_KEY_NAME\"}"
fi
[ "$status" = 200 ] || refused "the key $key_id"

admin GET "GetBucketInfo?globalAlias=$KIT_BUCKET"
if [ "$status" = 404 ]; then
    admin POST CreateBucket "{\"globalAlias\": \"$KIT_BUCKET\"}"
fi
[ "$status" = 200 ] || refused "the bucket $KIT_BUCKET"
bucket_id=$(grep -o '"id": *"[0-9a-f]\{64\}"' "$work/body" | head -n 1 | grep -o '[0-9a-f]\{64\}')
admin POST AllowBucketKey "{\"bucketId\": \"$bucket_id\", \"accessKeyId\": \"$key_id\",
    \"permissions\": {\"read\": true, \"write\": true, \"owner\": true}}"
[ "$status" = 200 ] || refused "the key's use of the bucket"

admin GET ListKeys
[ "$status" = 200 ] || refused 'the list of keys'
for old in $(tr -d '\n ' <"$work/body" | sed 's/},{/}\n{/g' | grep "\"name\":\"$KIT_KEY_NAME\"" |
    grep -o '"id":"[^"]*"' | cut -d '"' -f 4); do
    if [ "$old" != "$key_id" ]; then
        admin POST "DeleteKey?id=$old"
        [ "$status" = 200 ] || refused "the older key $old was not taken away"
        echo "the older key $old is gone"
    fi
done

# ------------------------------------------------------------------------------------- as a user of the bucket does

sha256() { sha256sum | cut -d ' ' -f 1; }

# escapes HEX: each byte as printf takes it.
escapes() {
    rest=$1 out=
    while [ -n "$rest" ]; do
        byte=$((0x${rest%"${rest#??}"}))
        rest=${rest#??}
        out="$out\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))"
    done
    echo "$out"
}

# padded HEX NUMBER: a key of at most 64 bytes, filled up to that, each byte xor the number, as printf takes it.
padded() {
    rest=$1 out='' count=0
    while [ $count -lt 64 ]; do
        byte=0
        if [ -n "$rest" ]; then
            byte=$((0x${rest%"${rest#??}"}))
            rest=${rest#??}
        fi
        byte=$((byte ^ $2)) count=$((count + 1))
        out="$out\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))"
    done
    echo "$out"
}

# hmac KEY-IN-HEX TEXT: HMAC-SHA256 (RFC 2104), in hex.
hmac() {
    inner=$({ printf "$(padded "$1" 54)"; printf %s "$2"; } | sha256)
    { printf "$(padded "$1" 92)"; printf "$(escapes "$inner")"; } | sha256
}

# s3 METHOD PATH BODY ID SECRET: AWS Signature Version 4, path style. Without a secret, unsigned.
s3() {
    now=$(date -u +%Y%m%dT%H%M%SZ)
    digest=$(printf %s "$3" | sha256)
    headers="x-amz-content-sha256: $digest
x-amz-date: $now"
    if [ -n "$5" ]; then
        scope="${now%T*}/$KIT_REGION/s3/aws4_request"
        names='host;x-amz-content-sha256;x-amz-date'
        canonical="$1
$2

host:$KIT_HOST:$KIT_S3_PORT
x-amz-content-sha256:$digest
x-amz-date:$now

$names
$digest"
        text="AWS4-HMAC-SHA256
$now
$scope
$(printf %s "$canonical" | sha256)"
        # "AWS4" and a secret of 64 characters are more than a block: such a key is hashed first.
        signing=$(printf 'AWS4%s' "$5" | sha256)
        for part in "${now%T*}" "$KIT_REGION" s3 aws4_request "$text"; do
            signing=$(hmac "$signing" "$part")
        done
        headers="$headers
Authorization: AWS4-HMAC-SHA256 Credential=$4/$scope, SignedHeaders=$names, Signature=$signing"
    fi
    exchange "$KIT_S3_PORT" "$1 $2 HTTP/1.0
$headers" "$3"
}

object="/$KIT_BUCKET/kit-proof/$(cat /proc/sys/kernel/random/uuid)"
content="written $(date -u), read again"
wrong=$(printf '%s wrong' "$key" | sha256)

s3 PUT "$object" "$content" "$key_id" "$key"
[ "$status" = 200 ] || refused 'an object was not written'
trap 's3 DELETE "$object" "" "$key_id" "$key" || true; rm -rf "$work"' EXIT
s3 GET "$object" '' "$key_id" "$key"
[ "$status" = 200 ] || refused 'the object that was written was not read'
[ "$(cat "$work/body")" = "$content" ] || stop 'what was read is not what was written'
s3 GET "$object" '' '' ''
[ "$status" = 403 ] || refused 'a request without a key was not refused'
s3 GET "$object" '' "$key_id" "$wrong"
[ "$status" = 403 ] || refused 'a request with a wrong key was not refused'
s3 PUT "$object" 'overwritten' "$key_id" "$wrong"
[ "$status" = 403 ] || refused 'writing with a wrong key was not refused'
s3 DELETE "$object" '' "$key_id" "$key"
[ "$status" = 204 ] || refused 'the object was not removed'
s3 GET "$object" '' "$key_id" "$key"
[ "$status" = 404 ] || refused 'the object that was removed is still there'
trap 'rm -rf "$work"' EXIT
echo 'an object: written, read, removed; refused without the key and with a wrong one'
