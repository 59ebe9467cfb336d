-- Keeps what is known of the servers (address, healthy or not) in a file, once a second: a worker that a reload starts
-- begins with it. Without it each server has no address until Docker's DNS has answered, and people see 503 meanwhile.
-- lua-load gives it: the runtime API's socket, and the file. Both are on a tmpfs, so that a container starts with none.
local socket, file = ...

local function states()
    local client = core.tcp()
    client:settimeout(2)
    if not client:connect(socket) then
        return nil
    end
    client:send("show servers state\n")
    local text = client:receive("*a")
    client:close()
    -- A version, a line of names, servers, and an empty line at the end.
    return text and string.match(text, "^1\n# .*\n\n?$") and text or nil
end

core.register_task(function()
    while true do
        core.msleep(1000)
        -- The worker before, which ends its streams, would write the same again: the socket is its successor's by now.
        if core.get_info()["Stopping"] == "1" then
            return
        end
        local text = states()
        local out = text and io.open(file .. ".new", "w")
        if out then
            out:write(text)
            out:close()
            os.rename(file .. ".new", file)
        end
    end
end)
