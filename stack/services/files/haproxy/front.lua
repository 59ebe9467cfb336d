-- When the certificate ends with which a connection was made, in seconds since 1970: haproxy.cfg tells who collects
-- metrics (stack/derive/ingress.py).

-- Days since 1970 of a date of the Gregorian calendar. Years begin in March here, so that a leap day is the last one.
local function days(year, month, day)
    if month <= 2 then
        year = year - 1
    end
    local era = year // 400
    local of_era = year - era * 400
    local of_year = (153 * (month + (month > 2 and -3 or 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
end

-- ASN.1's time, YYMMDDhhmmssZ or YYYYMMDDhhmmssZ (RFC 5280, section 4.1.2.5).
core.register_fetches("front_not_after", function(txn)
    local text = txn.f:ssl_f_notafter() or ""
    if #text == 13 then
        text = (tonumber(string.sub(text, 1, 2)) >= 50 and "19" or "20") .. text
    end
    local year, month, day, hour, minute, second = string.match(text, "^(%d%d%d%d)(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)Z$")
    if not year then
        return "NaN"
    end
    local number = math.tointeger
    local date = days(number(tonumber(year)), number(tonumber(month)), number(tonumber(day)))
    return tostring(date * 86400 + tonumber(hour) * 3600 + tonumber(minute) * 60 + tonumber(second))
end)
