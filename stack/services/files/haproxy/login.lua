-- Asks the login service who a request is from, on behalf of haproxy.cfg (stack/derive/forward_auth.py), before the
-- request goes anywhere. lua-load gives it: where it is answered on loopback, the name of the login's cookie, the path
-- that checks and the path that signs out.
--
-- What it found is in txn.login: "in", "nobody", "other" (a person whom the route is not for) or "down". haproxy.cfg sets
-- "down" beforehand, so a script that trips lets nobody in.
local base, cookie_name, check, sign_out = ...

local ANSWERS = { [202] = "in", [401] = "nobody", [403] = "other" }
local PERSON = {
    ["x-auth-request-user"] = "txn.login_id",
    ["x-auth-request-email"] = "txn.login_email",
    ["x-auth-request-groups"] = "txn.login_groups",
    ["x-auth-request-preferred-username"] = "txn.login_user",
}

-- The login's own cookie, and none of the others: they are no business of the login service. nil when there is none.
local function session(txn)
    for pair in string.gmatch(txn.sf:req_fhdr("cookie") or "", "[^;]+") do
        local name, value = string.match(pair, "^%s*([^=]-)%s*=(.*)$")
        if name == cookie_name then
            return name .. "=" .. value
        end
    end
    return nil
end

local function ask(path, cookie)
    local client = core.httpclient()
    return client:get({ url = base .. path, headers = { ["cookie"] = { cookie } }, timeout = 10000 })
end

-- A session that was renewed, or is over: the browser is told so with whatever it is answered.
local function keep_cookie(txn, answer)
    local set = answer.headers and answer.headers["set-cookie"]
    if set and set[0] then
        txn:set_var("txn.login_cookie", set[0])
    end
end

-- groups: who the route is for. back: the route's public URL, for coming back to after a login.
core.register_action("login", { "http-req" }, function(txn, groups, back)
    txn:set_var("txn.login_back", back .. (txn.sf:pathq() or "/"))
    local cookie = session(txn)
    if not cookie then
        txn:set_var("txn.login", "nobody")
        return
    end
    local answer = ask(string.gsub(check, "{groups}", groups), cookie)
    local found = answer and ANSWERS[answer.status] or "down"
    if found == "down" then
        txn:Warning("the login service answered " .. tostring(answer and answer.status))
        return
    end
    if found ~= "nobody" then -- 401 is its answer to a store that is away, too: the cookie may be good again
        keep_cookie(txn, answer)
    end
    if found == "in" then
        for name, variable in pairs(PERSON) do
            local value = answer.headers[name]
            if value and value[0] then
                txn:set_var(variable, value[0])
            end
        end
    end
    txn:set_var("txn.login", found)
end, 2)

-- The service ends its own session: so does the login, here and at the identity provider.
core.register_action("logout", { "http-req" }, function(txn)
    local cookie = session(txn)
    if cookie then
        txn:set_var("txn.login", "down") -- nobody is told of a logout that did not happen
        local answer = ask(sign_out, cookie)
        if answer and answer.status == 302 then
            keep_cookie(txn, answer)
            txn:set_var("txn.login", "in")
        end
    end
end, 0)
