-- 信用主体建档
SELECT
    uscc,
    name,
    CASE WHEN legal_rep_name LIKE '欧阳%' THEN '欧阳' || substr('****', 1, length(legal_rep_name) - 2) ELSE substr(legal_rep_name, 1, 1) || substr('****', 1, length(legal_rep_name) - 1) END AS legal_rep_name,
    established,
    status,
    reg_address_division
FROM enterprise
WHERE reg_address_division LIKE '4501%'
