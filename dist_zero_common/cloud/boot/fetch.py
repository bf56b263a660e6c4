"""Reads objects of the system's bucket with this instance's role:

python3 fetch.py REGION BUCKET ENDPOINT get KEY FILE
python3 fetch.py REGION BUCKET ENDPOINT run KEY USER DIRECTORY COMMAND [NAME=VALUE ...]

`run` becomes the command, as the user, in the directory, with the environment that the object says: a JSON object of
texts. So what is secret in it is on no disk and in no command line. ENDPOINT is empty for Amazon's own.
"""

import datetime
import hashlib
import hmac
import json
import os
import pwd
import sys
import urllib.parse
import urllib.request

METADATA = "http://169.254.169.254/latest"


def metadata(path: str, token: str) -> str:
    """Something that the instance is told about itself."""
    request = urllib.request.Request(
        f"{METADATA}/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token}
    )
    return str(urllib.request.urlopen(request, timeout=10).read().decode())


def credentials() -> dict[str, str]:
    """Those of the instance's role."""
    wants = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    request = urllib.request.Request(f"{METADATA}/api/token", method="PUT", headers=wants)
    token = urllib.request.urlopen(request, timeout=10).read().decode()
    role = metadata("iam/security-credentials/", token).split()[0]
    found: dict[str, str] = json.loads(metadata(f"iam/security-credentials/{role}", token))
    return found


def read(region: str, bucket: str, endpoint: str, key: str) -> bytes:
    """An object's bytes, asked for with a signature (AWS, version 4)."""
    mine = credentials()
    url = urllib.parse.urlsplit(endpoint or f"https://s3.{region}.amazonaws.com")
    path = "/" + urllib.parse.quote(f"{bucket}/{key}", safe="/-_.~")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    nothing = hashlib.sha256(b"").hexdigest()
    headers = {
        "host": url.netloc,
        "x-amz-content-sha256": nothing,
        "x-amz-date": now,
        "x-amz-security-token": mine["Token"],
    }
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    asked = f"GET\n{path}\n\n{lines}\n{names}\n{nothing}"
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    signed = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    secret = f"AWS4{mine['SecretAccessKey']}".encode()
    for part in (*scope.split("/"), signed):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={mine['AccessKeyId']}/{scope},"
        f" SignedHeaders={names}, Signature={secret.hex()}"
    )
    request = urllib.request.Request(f"{url.scheme}://{url.netloc}{path}", headers=headers)
    body: bytes = urllib.request.urlopen(request, timeout=60).read()
    return body


def run(environment: dict[str, str], user: str, directory: str, command: list[str], own: list[str]) -> None:
    """Become the command."""
    who = pwd.getpwnam(user)
    os.chdir(directory)
    os.initgroups(user, who.pw_gid)
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    os.execve(command[0], command, {**environment, **dict(pair.split("=", 1) for pair in own)})


def main(region: str, bucket: str, endpoint: str, what: str, key: str, *words: str) -> None:
    """Do what the arguments say; what the bucket answers to a refused request is said."""
    try:
        body = read(region, bucket, endpoint, key)
    except OSError as failed:
        sys.exit(f"s3://{bucket}/{key} cannot be read: {failed}")
    if what == "get":
        with open(words[0], "wb") as file:
            file.write(body)
        return
    user, directory, command, *own = words
    run(json.loads(body), user, directory, command.split(), own)


if __name__ == "__main__":
    main(*sys.argv[1:])
