import json,sys,subprocess
which=sys.argv[1]
if which=='s':
    import apsw; db=apsw.Connection('v.db'); ex=lambda q:[tuple(r) for r in db.execute(q)]
else:
    import psycopg2; c=psycopg2.connect('postgres://postgres@127.0.0.1:55432/atk_v'); cur=c.cursor()
    def ex(q): cur.execute(q); return cur.fetchall()
try: log=json.load(open(f'log-{which}.json'))
except Exception: log={}
tables={'Org':'orgs','Team':'teams','Member':'members','Note':'notes','Log':'logs','Dir':'dirs','File':'files'}
cols={'Org':['id','name'],'Team':['id','orgId','bossId','version','updatedAt'],'Member':['a','b','teamId'],'Note':['id','ma','mb','text'],'Log':['id','orgId'],'Dir':['id','parentId','name','version','deletedAt'],'File':['id','dirId','name','updatedAt','deletedAt']}
snake=lambda s:''.join('_'+ch.lower() if ch.isupper() else ch for ch in s)
state={};bad=0;seen=0
for seq,model,pk,oob,entry in ex('select seq,model,primary_key,out_of_band,entry from cratestack_audit order by seq'):
    seen+=1
    e=json.loads(entry)
    can=json.dumps(e,sort_keys=True,separators=(',',':'),ensure_ascii=False)
    if can!=entry and bad<5: bad+=1; print('NONCANON',entry[:200]);print(can[:200])
    k=(model,pk); b,a=e['before'],e['after']
    assert e['primary_key']==pk and e['model']==model and e['out_of_band']==bool(oob)
    if state.get(k)!=b: bad+=1; print('CHAIN',seq,k,e['operation'],'state',state.get(k),'before',b) if k[0] not in ("Team","Dir") else 0
    state[k]=a
    if a is None: del state[k]
    ch=sorted(f for f in {**(a or {}),**(b or {})} if (a or {}).get(f)!=(b or {}).get(f))
    if ch!=e['changed']: bad+=1; print('CHANGED',seq,ch,e['changed'])
    rid=e['request_id']
    if log and not oob:
        if rid not in log: print('RID?',rid); bad+=1
        else:
            u,m,p=log[rid]
            if e['actor']['subject']!=u or not e['op'].startswith(m): bad+=1; print('ACTOR',seq,rid,log[rid],e['actor'],e['op'])
    op=e['operation']
    want='create' if b is None else ('delete' if not (b.get('deletedAt')) else 'erase') if a is None else 'delete' if b.get('deletedAt','x') is None and a['deletedAt'] else 'restore' if b.get('deletedAt') and a.get('deletedAt') is None else 'update'
    if op!=want: bad+=1; print('OP',seq,op,want)
for m,t in tables.items():
    fs=[snake(c) for c in cols[m]]
    sel=[f"to_char({f} at time zone 'UTC','YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')" if which=='p' and f.endswith('_at') else f for f in fs]
    rows={}
    for r in ex(f"select {','.join(sel)} from {t}"):
        d=dict(zip(cols[m],r)); pk=json.dumps([d['a'],d['b']],separators=(',',':'),ensure_ascii=False) if m=='Member' else str(d['id'])
        rows[(m,pk)]=d
    st={k:v for k,v in state.items() if k[0]==m}
    for k in set(rows)|set(st):
        if rows.get(k)!=st.get(k): bad+=1; print('FINAL',k,rows.get(k),st.get(k)) if k[0] not in ("Team","Dir") else 0
print(which,'events',seen,'bad',bad)
